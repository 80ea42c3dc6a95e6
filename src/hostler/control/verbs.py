"""Everything one can ask of a platform, by noun."""

from __future__ import annotations

from dataclasses import dataclass

from hostler.control.context import Context
from hostler.control.deployments import Deployments
from hostler.control.engines import Engines
from hostler.control.keys import Keys
from hostler.control.metrics import Metrics
from hostler.control.models import Models
from hostler.control.platform import Platform
from hostler.control.usage import Usage


@dataclass(frozen=True, slots=True)
class Verbs:
    """The verbs of one platform. `context` is for what is no verb: blobs and secrets, files that are only moved."""

    context: Context
    models: Models
    deployments: Deployments
    keys: Keys
    engines: Engines
    platform: Platform
    usage: Usage
    metrics: Metrics
