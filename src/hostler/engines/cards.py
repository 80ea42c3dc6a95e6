"""What every engine reads from a card in the same way."""

from __future__ import annotations

import msgspec

from hostler.engines.engine import LaunchRequest
from hostler.spec.launch import LaunchFile, Probe, WarmupRequest
from hostler.spec.version import ModelVersion


def files_of(version: ModelVersion) -> tuple[LaunchFile, ...]:
    """The version's files for the runner."""
    return tuple(LaunchFile(file.path, file.digest, file.size) for file in version.files)


def probe_of(version: ModelVersion, request: LaunchRequest, *, path: str) -> Probe:
    """The card's readiness, else `path`; never waited for longer than the deployment says."""
    readiness = version.card.readiness
    if readiness is None:
        return Probe(path, request.start_timeout_s)
    return Probe(readiness.path, min(readiness.timeout_seconds, request.start_timeout_s))


def warmup_of(version: ModelVersion) -> tuple[WarmupRequest, ...]:
    """The card's warm-up requests."""
    return tuple(
        WarmupRequest(warmup.path, msgspec.json.encode(warmup.body).decode() if warmup.body is not None else None)
        for warmup in version.card.warmup
    )
