"""What gateways tell of the requests of two revisions, gathered as evidence for or against the new one."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping

from hostler.decide.analysis import Evidence, Verdict, judge, take
from hostler.spec.rollout import NO_OUTCOMES, Outcomes, Rollout
from hostler.spec.update import Analysis
from hostler.store.records import ReplicaRecord


class Comparisons:
    """Of all deployments that are rolled out. Methods may be called from any thread.

    A control that is started again begins with no evidence: a step then takes as many requests again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heard: dict[str, dict[str, Outcomes]] = {}
        """By deployment and replica, what no verdict has taken in."""
        self._evidence: dict[str, tuple[tuple[int, float], Evidence]] = {}

    def heard(self, outcomes: Mapping[str, Outcomes]) -> None:
        """A gateway has told what became of requests, by replica."""
        with self._lock:
            for replica_id, told in outcomes.items():
                replicas = self._heard.setdefault(replica_id.rpartition("-")[0], {})
                replicas[replica_id] = replicas.get(replica_id, NO_OUTCOMES).plus(told)

    def verdict(
        self, name: str, rollout: Rollout, policy: Analysis, replicas: Iterable[ReplicaRecord], *, now: float
    ) -> Verdict:
        """What all that was heard says of the rollout of `name`. Asked again, it says the same."""
        revisions = {replica.id: replica.revision for replica in replicas}
        key = (rollout.to_revision, rollout.began_at)
        with self._lock:
            heard = self._heard.pop(name, {})
            known = self._evidence.get(name)
            evidence = known[1] if known is not None and known[0] == key else Evidence(since=now)
            new = stable = NO_OUTCOMES
            for replica_id, told in heard.items():
                if revisions.get(replica_id) == rollout.to_revision:
                    new = new.plus(told)
                elif revisions.get(replica_id) == rollout.from_revision:
                    stable = stable.plus(told)
            evidence = take(evidence, policy, new=new, stable=stable, step=rollout.step, now=now)
            self._evidence[name] = (key, evidence)
        return judge(evidence, policy)

    def forget(self, name: str) -> None:
        """Nothing of this deployment is compared any more. Idempotent."""
        with self._lock:
            self._heard.pop(name, None)
            self._evidence.pop(name, None)
