"""Snapshots that follow one another, and the changes between them."""

from __future__ import annotations

from collections.abc import Mapping

from front_door import endpoint, grant
from hypothesis import strategies as st

from hostler.spec.snapshot import EndpointRoute, KeyGrant, Snapshot, SnapshotDelta

NAMES = ("a", "b", "c", "d")
Content = tuple[Mapping[str, EndpointRoute], Mapping[str, KeyGrant]]


def _endpoint(name: str, shape: tuple[list[int], str]) -> EndpointRoute:
    ports, condition = shape
    return endpoint(name, *ports, condition=condition)


_ENDPOINTS = st.dictionaries(
    st.sampled_from(NAMES),
    st.tuples(st.lists(st.integers(0, 5), max_size=3, unique=True), st.sampled_from(["", "It sleeps."])),
).map(lambda shapes: {name: _endpoint(name, shape) for name, shape in shapes.items()})
_KEYS = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["inference", "admin"])).map(
    lambda roles: {made.digest: made for made in (grant(f"hk_{name}_", role=role) for name, role in roles.items())}
)
contents: st.SearchStrategy[list[Content]] = st.lists(st.tuples(_ENDPOINTS, _KEYS), min_size=1, max_size=8)
"""What is true, one after the other. Some of the targets cannot be used: their port is 0."""


def whole(version: int, content: Content) -> Snapshot:
    return Snapshot(version, float(version), tuple(content[0].values()), tuple(content[1].values()))


def change(version: int, before: Content, after: Content) -> SnapshotDelta:
    """What makes `after`, as `version`, of `before`, the version that precedes it."""
    return SnapshotDelta(
        version=version,
        base=version - 1,
        created_at=float(version),
        endpoints=tuple(route for name, route in after[0].items() if before[0].get(name) != route),
        gone_endpoints=tuple(before[0].keys() - after[0].keys()),
        keys=tuple(key for digest, key in after[1].items() if before[1].get(digest) != key),
        gone_keys=tuple(before[1].keys() - after[1].keys()),
    )


def ordered(snapshot: Snapshot | None) -> Snapshot | None:
    """The same with its parts in the order of their names, to compare."""
    if snapshot is None:
        return None
    return Snapshot(
        snapshot.version,
        snapshot.created_at,
        tuple(sorted(snapshot.endpoints, key=lambda one: one.name)),
        tuple(sorted(snapshot.keys, key=lambda one: one.digest)),
    )
