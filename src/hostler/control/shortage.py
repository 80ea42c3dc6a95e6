"""Whether memory is short for some deployments, so that all must be looked at before any of them starts a replica."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hostler.control.eviction import Evictions
from hostler.control.room import Pool, free_in, lacking, pool_of
from hostler.control.seen_memory import SeenMemory
from hostler.control.traffic import Traffic
from hostler.decide.reconcile import failures_allowed
from hostler.spec.replica import ObservedNode
from hostler.store.deployments import Remembered


def is_short(
    deployments: Iterable[Remembered],
    nodes: Sequence[ObservedNode],
    promised: Mapping[Pool, int],
    traffic: Traffic,
    *,
    evictions: Evictions,
    seen: SeenMemory,
) -> bool:
    """Whether a replica that these lack may be another's due, or others may have to make room for it.

    `promised` is what of the free memory is spoken for, in bytes.
    """
    if not nodes or not traffic.settled:
        return False
    wanted = dict.fromkeys(Pool, 0)
    must_wake = False
    for one in deployments:
        record, need = one.record, seen.need_of(one.template)
        given_up = record.failures >= failures_allowed(ever_ready=record.ever_ready)
        count = lacking(record, one.replicas)
        if not count or not need or record.spec.force or given_up:
            continue
        if evictions.somebody_waits(but=record.name):
            return True
        wanted[pool_of(one.template, nodes)] += count * need
        must_wake |= evictions.must_wake(one, traffic)
    return must_wake and any(wanted[pool] > free_in(pool, nodes) - promised[pool] for pool in Pool)
