"""How much may one queue, or one tenant, have at once?"""

from __future__ import annotations

from tinyscheduler.core.refusal import Refusal
from tinyscheduler.model.plan import Reason
from tinyscheduler.model.policy import TenantView
from tinyscheduler.model.resources import format_size
from tinyscheduler.values import dataclass, field, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tinyscheduler.model.config import Inventory, Quota


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What one queue or tenant has now: attempts, and bytes of VRAM."""

    slots: int = 0
    vram_bytes: int = 0

    def plus(self, other: Use) -> Use:
        """Return both together."""
        return Use(slots=self.slots + other.slots, vram_bytes=self.vram_bytes + other.vram_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaRoom:
    """What queues and tenants may have, and what each has.  Whoever has no quota has no bound."""

    queues: Mapping[str, Quota] = field(default_factory=dict)
    tenants: Mapping[str, Quota] = field(default_factory=dict)
    by_queue: Mapping[str, Use] = field(default_factory=dict)
    by_tenant: Mapping[str, Use] = field(default_factory=dict)

    def refuse(self, queue: str, tenant: str | None, use: Use) -> Iterator[Refusal]:
        """Yield each quota that leaves no room for so much more, the closer one first."""
        if tenant is not None and tenant in self.tenants:
            yield from _refuse(
                f"tenant {tenant}",
                self.tenants[tenant],
                self.by_tenant.get(tenant, Use()),
                use,
                Reason.TENANT_QUOTA,
            )
        if queue in self.queues:
            yield from _refuse(
                f"queue {queue}",
                self.queues[queue],
                self.by_queue.get(queue, Use()),
                use,
                Reason.QUEUE_LIMIT,
            )

    def take(self, queue: str, tenant: str | None, use: Use) -> QuotaRoom:
        """Return what is left after a start that uses this."""
        return self.plus([(queue, tenant, use)])

    def give_back(self, uses: Iterable[tuple[str, str | None, Use]]) -> QuotaRoom:
        """Return what there is once the attempts have ended that used this."""
        return self.plus(
            (queue, tenant, Use(slots=-use.slots, vram_bytes=-use.vram_bytes))
            for queue, tenant, use in uses
        )

    def tenant_views(self) -> tuple[TenantView, ...]:
        """Return what each tenant that has a quota may have, and has."""
        return tuple(
            TenantView(
                name=name,
                slots=quota.slots,
                vram_bytes=quota.vram_bytes,
                used_slots=self.by_tenant.get(name, Use()).slots,
                used_vram_bytes=self.by_tenant.get(name, Use()).vram_bytes,
            )
            for name, quota in sorted(self.tenants.items())
        )

    def plus(self, uses: Iterable[tuple[str, str | None, Use]]) -> QuotaRoom:
        """Return the same with so much more in use: queue, tenant and use of each attempt."""
        if not self.queues and not self.tenants:
            return self  # nobody asks
        by_queue, by_tenant = dict(self.by_queue), dict(self.by_tenant)
        for queue, tenant, use in uses:
            by_queue[queue] = by_queue.get(queue, Use()).plus(use)
            if tenant is not None:
                by_tenant[tenant] = by_tenant.get(tenant, Use()).plus(use)
        return replace(self, by_queue=by_queue, by_tenant=by_tenant)


def measure_quotas(inventory: Inventory, uses: Iterable[tuple[str, str | None, Use]]) -> QuotaRoom:
    """Return all quotas, and what is had of them: queue, tenant and use of each attempt."""
    return QuotaRoom(
        queues={one.name: one for one in inventory.queues},
        tenants={one.name: one for one in inventory.tenants},
    ).plus(uses)


def _refuse(whose: str, quota: Quota, had: Use, use: Use, reason: Reason) -> Iterator[Refusal]:
    if quota.slots is not None and had.slots + use.slots > quota.slots:
        yield Refusal(
            reason=reason,
            words=f"{whose} has {had.slots} of {quota.slots} slots",
            is_lasting=use.slots > quota.slots,
        )
    # Whoever needs none of it is not kept by it.
    if quota.vram_bytes is None or not use.vram_bytes:
        return
    if had.vram_bytes + use.vram_bytes > quota.vram_bytes:
        yield Refusal(
            reason=reason,
            words=f"{whose} has {format_size(had.vram_bytes)} of"
            f" {format_size(quota.vram_bytes)} of VRAM, and this needs"
            f" {format_size(use.vram_bytes)}",
            is_lasting=use.vram_bytes > quota.vram_bytes,
        )
