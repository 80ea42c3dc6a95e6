"""The policies that are compared, by name, set up for a trace and a replica."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hostler.simulate.fleet import ReplicaModel, simulate
from hostler.simulate.hostler import HostlerPolicy
from hostler.simulate.peers import Clarifai, Dstack, Fedml, Fixed, Knative, Ray, SkyServe
from hostler.simulate.peers.oracle import Oracle
from hostler.simulate.policy import ScalingPolicy
from hostler.simulate.result import Result, Slo
from hostler.simulate.trace import Trace
from hostler.spec.autoscale import MAX_REPLICAS, Autoscale

LOAD_TESTED_SHARE = 0.75
"""Of what a replica can serve, for targets that have no default: what `hostler bench --suggest` would give."""
CLARIFAI_SHARE = 0.8
_ORACLE_RUNS = 6
RAY_MAX_REPLICAS = 100
"""What `num_replicas: auto` allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a comparison is about: the traffic, the replica, the objective, and the bound all policies have."""

    trace: Trace
    replica: ReplicaModel = ReplicaModel()
    slo: Slo = Slo()
    max_replicas: int = MAX_REPLICAS

    def run(self, policy: ScalingPolicy, *, initial: int = 0) -> Result:
        """Replay the trace; `initial` replicas are ready when it begins."""
        return simulate(self.trace, policy, replica=self.replica, slo=self.slo, initial=initial)

    def run_spec(self, spec: Autoscale, *, name: str = "hostler") -> Result:
        """Hostler's policy; its floor is ready when the trace begins."""
        return self.run(HostlerPolicy(spec, name=name), initial=spec.min_replicas)

    def run_fixed(self, count: int) -> Result:
        return self.run(Fixed(count), initial=count)

    def capacity_rps(self) -> float:
        """Requests of the trace's mean size a second that one replica can serve: by its prefill, or by its places."""
        arrivals, replica = self.trace.arrivals, self.replica
        if not arrivals:
            return 1.0
        prompt = sum(one.prompt_tokens for one in arrivals) / len(arrivals)
        output = sum(one.output_tokens for one in arrivals) / len(arrivals)
        prefill_s = max(prompt / replica.prefill_tokens_per_s, 1e-9)
        full_token_s = replica.token_s + replica.token_per_request_s * replica.max_requests
        return min(1 / prefill_s, replica.max_requests / (prefill_s + output * full_token_s))


Settings = Mapping[str, float | None]
"""`target` and `min_replicas`; what is left out or None is the peer's default."""


def _given(settings: Settings, name: str, default: float) -> float:
    value = settings.get(name)
    return default if value is None else value


def _floor(settings: Settings, default: int = 0) -> int:
    return int(_given(settings, "min_replicas", default))


def knative(scene: Scene, settings: Settings) -> ScalingPolicy:
    """The container's own limit is the replica's; the target is 70% of it."""
    target = settings.get("target")
    return Knative(
        concurrency=scene.replica.max_requests if target is None else target,
        utilization=0.7 if target is None else 1.0,
        min_replicas=_floor(settings),
        max_replicas=scene.max_replicas,
    )


def ray(scene: Scene, settings: Settings) -> ScalingPolicy:
    return Ray(
        target_ongoing_requests=_given(settings, "target", 2.0),
        min_replicas=_floor(settings, 1),
        max_replicas=min(scene.max_replicas, RAY_MAX_REPLICAS),
    )


def clarifai(scene: Scene, settings: Settings) -> ScalingPolicy:
    return Clarifai(
        target=_given(settings, "target", CLARIFAI_SHARE * scene.replica.max_requests),
        min_replicas=_floor(settings),
        max_replicas=scene.max_replicas,
    )


def dstack(scene: Scene, settings: Settings) -> ScalingPolicy:
    return Dstack(
        target=_given(settings, "target", LOAD_TESTED_SHARE * scene.capacity_rps()),
        min_replicas=_floor(settings),
        max_replicas=scene.max_replicas,
    )


def skyserve(scene: Scene, settings: Settings) -> ScalingPolicy:
    return SkyServe(
        target=_given(settings, "target", LOAD_TESTED_SHARE * scene.capacity_rps()),
        min_replicas=_floor(settings),
        max_replicas=scene.max_replicas,
    )


def fedml(scene: Scene, settings: Settings) -> ScalingPolicy:
    """The queries of one minute, which is its window."""
    target = _given(settings, "target", 60 * LOAD_TESTED_SHARE * scene.capacity_rps())
    return Fedml(
        queries_per_replica=max(1, round(target)),
        min_replicas=_floor(settings),
        max_replicas=scene.max_replicas,
    )


PEERS: Mapping[str, Callable[[Scene, Settings], ScalingPolicy]] = {
    "knative": knative,
    "ray": ray,
    "clarifai": clarifai,
    "dstack": dstack,
    "fedml": fedml,
    "skyserve": skyserve,
}


def run_peer(name: str, scene: Scene, settings: Settings | None = None) -> Result:
    """Replay the trace under a peer's rule, with its floor ready at the beginning."""
    given = settings or {}
    floor = _floor(given, 1 if name == "ray" else 0)
    return scene.run(PEERS[name](scene, given), initial=min(floor, scene.max_replicas))


def run_oracle(scene: Scene) -> Result:
    """The cheapest plan of one who knows the trace that meets the objective, by how much it leaves out."""
    best: Result | None = None
    least, most = 0.0, 2 * (1 - scene.slo.share)
    for _ in range(_ORACLE_RUNS):
        left_out = (least + most) / 2
        oracle = Oracle(scene.trace, scene.replica, scene.slo, left_out=left_out)
        result = scene.run(oracle, initial=oracle.initial)
        if result.met:
            least = left_out
            best = result if best is None or result.replica_hours < best.replica_hours else best
        else:
            most = left_out
    if best is None:
        oracle = Oracle(scene.trace, scene.replica, scene.slo)
        best = scene.run(oracle, initial=oracle.initial)
    return best
