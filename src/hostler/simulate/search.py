"""The cheapest setting that meets an objective. A search is bounded, goes in a fixed order and keeps what it tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hostler.simulate.contenders import Scene, Settings, run_peer
from hostler.simulate.result import Result
from hostler.spec.autoscale import Autoscale

TARGET_SHARES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
"""Of a replica's places: the targets that are tried."""
DELAYS_S = (30.0, 120.0, 300.0, 600.0, 1800.0)
MAX_FIXED = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One setting and what it gave."""

    changes: Settings
    result: Result

    @property
    def label(self) -> str:
        """`target 2, min_replicas 3`; a value that is learned is `learned`."""
        shown = {name: "learned" if value is None else f"{value:g}" for name, value in self.changes.items()}
        return ", ".join(f"{name} {value}" for name, value in shown.items()) or "as it is"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The cheapest trial that met the objective, None if none did, and all trials in their order."""

    best: Trial | None
    trials: tuple[Trial, ...]


def smallest_fixed(scene: Scene, *, most: int = MAX_FIXED) -> Found:
    """The smallest constant fleet that meets the objective: doubled until one does, then halved in between."""
    trials: list[Trial] = []

    def meets(count: int) -> bool:
        trials.append(Trial(changes={"fixed": count}, result=scene.run_fixed(count)))
        return trials[-1].result.met

    most = min(most, scene.max_replicas)
    over, under = 1, 0
    while not meets(over):
        if over >= most:
            return Found(best=None, trials=tuple(trials))
        over, under = min(most, 2 * over), over
    while over - under > 1:
        middle = (over + under) // 2
        over, under = (middle, under) if meets(middle) else (over, middle)
    return Found(best=_cheapest(trials), trials=tuple(trials))


def sweep_peer(name: str, scene: Scene, *, targets: Sequence[float], floors: Sequence[int]) -> Found:
    """The cheapest target and floor of a peer. A higher floor is not tried where a lower one meets the objective."""
    trials: list[Trial] = []
    for target in targets:
        _climb_floors({"target": target}, lambda changes: run_peer(name, scene, changes), scene, floors, trials)
    return Found(best=_cheapest(trials), trials=tuple(trials))


def search(spec: Autoscale, scene: Scene) -> Found:
    """The cheapest change to `spec` that meets the objective.

    First `spec` as it is and with each target, learned and of `TARGET_SHARES`, and each floor up to the smallest
    constant fleet that meets the objective; then, at the best of these, each delay of `DELAYS_S` before replicas go.
    A floor that alone costs more than the best so far is not tried. At most some 60 runs.
    """
    trials = list(smallest_fixed(scene).trials)
    fixed = _cheapest(trials)
    highest = int(fixed.changes["fixed"] or 0) if fixed is not None else 8
    floors = sorted({spec.min_replicas, *range(min(highest, spec.max_replicas))})

    def run(changes: Settings) -> Result:
        return scene.run_spec(changed(spec, changes))

    trials.append(Trial(changes={}, result=run({})))
    targets = [spec.target, *(max(0.5, round(share * scene.replica.max_requests, 1)) for share in TARGET_SHARES)]
    for target in dict.fromkeys(targets if spec.metric == "concurrency" else [spec.target]):
        _climb_floors({"target": target}, run, scene, floors, trials)
    base = _cheapest([trial for trial in trials if "fixed" not in trial.changes])
    if base is not None:
        for name in ("scale_down_delay_seconds", "scale_to_zero_delay_seconds"):
            for delay_s in DELAYS_S:
                changes = {**base.changes, name: delay_s}
                trials.append(Trial(changes=changes, result=run(changes)))
            base = _cheapest([trial for trial in trials if "fixed" not in trial.changes]) or base
    return Found(best=_cheapest(trials), trials=tuple(trials))


def changed(spec: Autoscale, changes: Settings) -> Autoscale:
    """`spec` with these fields; the bounds stay consistent."""
    given = {
        name: int(value) if name == "min_replicas" and value is not None else value for name, value in changes.items()
    }
    return spec.model_copy(update=given)


def _climb_floors(
    base: Settings,
    run: Callable[[Settings], Result],
    scene: Scene,
    floors: Sequence[int],
    trials: list[Trial],
) -> None:
    """Try rising floors until one meets the objective, or alone would cost more than the best so far."""
    hours = scene.trace.duration_s / 3600
    for floor in floors:
        best = _cheapest(trials)
        if best is not None and floor * hours >= best.result.replica_hours:
            return
        changes = {**base, "min_replicas": floor}
        trials.append(Trial(changes=changes, result=run(changes)))
        if trials[-1].result.met:
            return


def _cheapest(trials: Sequence[Trial]) -> Trial | None:
    """Of those that met the objective, the one with the fewest replica hours, the earlier of equals."""
    met = [trial for trial in trials if trial.result.met]
    return min(met, key=lambda trial: trial.result.replica_hours, default=None)
