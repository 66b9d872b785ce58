"""Which accounts have had enough of their provider for now, and until when?"""

from __future__ import annotations

from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Cooling:
    """An account whose provider refused it for having used too much: nothing of it starts.

    Since then, until then; afterwards it stands for what is known of the account until an
    attempt of it succeeds.  ``times`` is how often in a row it was refused.  ``is_told`` says
    that the provider told its end.  ``agent`` is whose attempt it was, ``words`` what that said.
    """

    account: str
    since: datetime
    until: datetime
    times: int
    agent: str
    words: str
    is_told: bool = False
