"""As what would an attempt count that printed this?"""

from __future__ import annotations

from tinyscheduler.agent_outcomes import Judge
from tinyscheduler.agent_output import AgentOutput
from tinyscheduler.core.profiles import BUILT_IN, SHELL, find_profile, profile_document, profile_of
from tinyscheduler.errors import NotFoundError
from tinyscheduler.jsontext import loads
from tinyscheduler.model.tasks import Outcome
from tinyscheduler.values import dataclass
from tinyscheduler.wording import did_you_mean, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tinyscheduler.model.config import Config
    from tinyscheduler.model.profiles import Profile

_BLOCK_BYTES = 1 << 18
_ANY_AGENT = "any"
# What any command asks with to be tried again later.
_RETRY_LATER = 75


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleVerdict:
    """What a wrapper would have recorded, and what the agent said last."""

    profile: str
    outcome: Outcome
    reason: str | None
    words: str
    turns: int | None
    tokens: int | None
    cost_usd: float | None
    text: str


def find_rules(config: Config, name: str) -> Profile:
    """Return the profile by which that agent is judged, or the one of that name.

    Raises NotFoundError where there is neither.
    """
    agent = config.agent(name)
    if agent is not None:
        found = profile_of(agent, agent.command or ("",), config.profiles)
        found = found or find_profile(SHELL)
    else:
        found = find_profile(name, config.profiles)
    if found is None:
        known = {one.name for one in (*config.profiles, *BUILT_IN)}
        known |= {one.name for one in config.agents}
        message = f"there is no agent and no profile {quote(name)}"
        raise NotFoundError(message, hint=did_you_mean(name, sorted(known)))
    return found


def judge_sample(profile: Profile, sample: bytes, exit_code: int) -> SampleVerdict:
    """Judge an output that ended with this exit code, as a wrapper would."""
    judge = Judge(profile_document(profile))
    output = _read(profile, sample, judge)
    found = judge.judge(exit_code, output.answer)
    outcome = Outcome.SUCCEEDED if found is None else Outcome.FAILED
    if exit_code == _RETRY_LATER:
        found, outcome = None, Outcome.RETRY_LATER
    reason, words = found or (None, "")
    return SampleVerdict(
        profile=profile.name,
        outcome=outcome,
        reason=reason,
        words=words,
        turns=output.turns,
        tokens=output.tokens,
        cost_usd=output.cost_usd,
        text=output.answer or output.last_line,
    )


def find_answer(profile: Profile, sample: bytes) -> str:
    """Return what an agent said last by the events that it printed; empty where it prints none."""
    return _read(profile, sample, Judge(profile_document(profile))).answer


def _read(profile: Profile, sample: bytes, judge: Judge) -> AgentOutput:
    output = AgentOutput(profile.output or _ANY_AGENT, loads, judge)
    for at in range(0, len(sample), _BLOCK_BYTES):
        output.feed(sample[at : at + _BLOCK_BYTES])
    output.close()
    return output
