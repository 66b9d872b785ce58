"""Which models have a slot free, on which host, and whose are the others?"""

from __future__ import annotations

from collections import Counter

from tinyscheduler.core.refusal import Refusal
from tinyscheduler.model.config import LOCAL_HOST, ModelPlace
from tinyscheduler.model.plan import Reason
from tinyscheduler.model.policy import ModelView
from tinyscheduler.values import dataclass, field, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tinyscheduler.model.policy import AgentView
    from tinyscheduler.model.snapshot import Deferral, Snapshot


# What an attempt uses: its agent, the host, and the model it has a slot of there.  Without a
# model that is this machine.
Seat = tuple[str, str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRoom:
    """The slots of all models, and how many attempts have each seat.

    ``host_limits`` are those of other machines: this one's own counts whatever runs here.
    ``looked_at_in_s`` names the models that are not looked at yet; for ``retry_after_s`` that
    holds where none has a slot.
    """

    places: tuple[ModelPlace, ...] = ()
    host_limits: Mapping[str, int] = field(default_factory=dict)
    used: Mapping[Seat, int] = field(default_factory=dict)
    looked_at_in_s: Mapping[str, float] = field(default_factory=dict)
    retry_after_s: float = 30.0
    # The only host that counts; None: all do.
    only_host: str | None = None

    def knows(self, model: str | None) -> bool:
        """Whether slots of this model are counted; any other is but a name."""
        return any(place.model == model for place in self.places)

    def able(self, agent: AgentView, model: str) -> tuple[ModelPlace, ...]:
        """Return where the agent can have a slot of the model: where most are free, by name."""
        if model in self.looked_at_in_s:
            return ()
        found = [
            (-self.free(place), place.host, place)
            for place in self.places
            if place.model == model
            and self.only_host in (None, place.host)
            and self.free(place) > 0
            and self.has_room(agent, place.host)
        ]
        return tuple(place for _, _, place in sorted(found, key=lambda one: one[:2]))

    def has_room(self, agent: AgentView, host: str) -> bool:
        """Whether the agent may have one more attempt on that host."""
        return agent.max_per_host is None or self._runs(agent, host) < agent.max_per_host

    def refuse(self, agent: AgentView, model: str) -> Refusal:
        """Say why the agent has no slot of a model."""
        wait_s = self.looked_at_in_s.get(model)
        places = [place for place in self.places if place.model == model]
        full = [place for place in places if self.free(place) <= 0]
        words = f"model {model}: " + ", ".join(self._describe(place) for place in full)
        if not any(min(place.max_slots, self._limit_of(place)) for place in places):
            return Refusal(reason=Reason.MODEL_SLOTS, words=words, is_lasting=True, model=model)
        if wait_s is not None:
            if len(full) < len(places):
                words = f"a slot of model {model} has become free since none was"
            return Refusal(
                reason=Reason.NO_SLOTS,
                words=f"{words}; the next look is in {wait_s:.0f} s",
                model=model,
                retry_after_s=wait_s,
            )
        if len(full) == len(places):
            return Refusal(
                reason=Reason.NO_SLOTS,
                words=words,
                model=model,
                retry_after_s=self.retry_after_s,
            )
        hosts = [place.host for place in places if not self.has_room(agent, place.host)]
        return self.refuse_host(agent, hosts)

    def refuse_host(self, agent: AgentView, hosts: Iterable[str]) -> Refusal:
        """Say that the agent has all it may have on each of these hosts."""
        uses = ", ".join(f"{self._runs(agent, host)} on host {host}" for host in hosts)
        words = f"agent {agent.name} runs {uses}, and max_per_host is {agent.max_per_host}"
        return Refusal(reason=Reason.AGENT_LIMIT, words=words)

    def compete(self, model: str | None, *, for_model: str | None, host: str | None) -> bool:
        """Whether an attempt with a slot of a model on that host leaves fewer of another."""
        hosts = {place.host for place in self.places if place.model == for_model}
        return host in hosts and (model == for_model or host in self.host_limits)

    def views(self) -> tuple[ModelView, ...]:
        """Return each model on each host."""
        return tuple(
            ModelView(
                model=place.model,
                host=place.host,
                slots=place.max_slots,
                used=self.used_of(place),
                free=max(0, self.free(place)) if place.model not in self.looked_at_in_s else 0,
            )
            for place in self.places
        )

    def take(self, agent: str, model: str | None, host: str | None) -> ModelRoom:
        """Return what is left after a start that uses this."""
        seat = seat_of(agent, model, host)
        return replace(self, used={**self.used, seat: self.used.get(seat, 0) + 1})

    def give_back(self, seats: Iterable[Seat]) -> ModelRoom:
        """Return what there is once the attempts have ended that used these."""
        used = dict(self.used)
        for seat in seats:
            used[seat] -= 1
        return replace(self, used=used)

    def free(self, place: ModelPlace) -> int:
        """Return how many slots of the model are left there; less than none if too many run."""
        free = place.max_slots - self.used_of(place)
        if place.host not in self.host_limits:
            return free
        return min(free, self.host_limits[place.host] - self._used_on(place.host))

    def used_of(self, place: ModelPlace) -> int:
        """Return how many slots of the model are used there."""
        taken = (place.host, place.model)
        return sum(number for (_, *seat), number in self.used.items() if tuple(seat) == taken)

    # -- parts --------------------------------------------------------------------

    def _limit_of(self, place: ModelPlace) -> int:
        """Return what its host has for all its models together."""
        return self.host_limits.get(place.host, place.max_slots)

    def _used_on(self, host: str) -> int:
        return sum(
            number
            for (_, where, model), number in self.used.items()
            if where == host and model is not None
        )

    def _runs(self, agent: AgentView, host: str) -> int:
        return sum(
            number
            for (name, where, _), number in self.used.items()
            if name == agent.name and where == host
        )

    def _describe(self, place: ModelPlace) -> str:
        """Say what is full: the model's own slots, or those of its host."""
        used, limit, whose = self.used_of(place), place.max_slots, ""
        if used < limit:
            used, limit = self._used_on(place.host), self.host_limits[place.host]
            whose = " of all models"
        return f"{used} of {limit} slots{whose} on host {place.host} used"


def seat_of(agent: str, model: str | None, host: str | None) -> Seat:
    """Return what an attempt uses of a host: without a model only its place on this one."""
    return (agent, host or LOCAL_HOST, model if host else None)


def measure_models(snapshot: Snapshot, seats: Iterable[Seat]) -> ModelRoom:
    """Return the slots of all models as they are now."""
    inventory, rules = snapshot.inventory, snapshot.rules
    return ModelRoom(
        places=inventory.models,
        host_limits={
            host.name: host.max_slots
            for host in inventory.hosts
            if host.max_slots is not None and host.name != LOCAL_HOST
        },
        used=Counter(seats),
        looked_at_in_s={
            one.model: left_s
            for one in snapshot.memory.deferrals
            if (left_s := _left_s(one, snapshot)) > 0
        },
        retry_after_s=rules.retry_later_s,
    )


def _left_s(deferral: Deferral, snapshot: Snapshot) -> float:
    """Return how long it still lasts.

    One that has longer to go than any lasts was begun under a clock that has been set back
    since, and counts as over.
    """
    left_s = (deferral.until - snapshot.now.wall).total_seconds()
    return left_s if left_s <= snapshot.rules.retry_later_s else 0.0
