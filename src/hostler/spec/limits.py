"""Limits as people declare them: of a key, of a deployment's endpoint, of an external model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hostler.spec.fields import Declared

Limit = Annotated[int, Field(ge=1, le=10**12)]
Balance = Literal["least_outstanding", "prefix_affinity"]


class Limits(Declared):
    """Bounds on use; what is left out is not limited. Requests and tokens are counted over any 60 seconds."""

    rpm: Limit | None = Field(default=None, description="Requests a minute.")
    tpm: Limit | None = Field(default=None, description="Tokens a minute, of prompts and answers together.")
    max_concurrency: Limit | None = Field(default=None, description="Requests at the same time.")
