"""How the double says no."""

from __future__ import annotations


class Refusal(Exception):  # noqa: N818 - an answer, not an error
    """What is answered instead: a status, and words."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
