"""What is kept of a policy that was deployed, or that answered."""

from __future__ import annotations

from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptPolicy:
    """One version of a policy, and the file that holds it.

    ``digest`` is of the ``source`` as it was deployed.  With a ``fault`` nothing but ``path``
    and ``number`` can be relied upon: the file is missing, or is not what was written.
    """

    path: str
    number: int | None = None
    name: str = ""
    digest: str = ""
    created: datetime | None = None
    source: bytes = b""
    fault: str | None = None
