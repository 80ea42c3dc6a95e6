"""A deployment: which model version runs, how many replicas, with what."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import (
    Field,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from hostler.spec.autoscale import MAX_REPLICAS, Autoscale, Queue
from hostler.spec.fields import Bytes, Declared, Name, Value
from hostler.spec.limits import Balance, Limits
from hostler.spec.model import EngineName
from hostler.spec.names import parse_model_ref
from hostler.spec.update import Update


class Resources(Declared):
    """What one replica gets; what is left out is estimated or unlimited."""

    cpu: float | None = Field(default=None, gt=0, description="CPU cores: the engine's threads.")
    memory: Bytes | None = Field(
        default=None, description="Memory one replica needs, for example 2Gi; replaces the estimate."
    )
    gpus: int = Field(default=0, ge=0, description="GPUs for one replica.")


class DeploymentSpec(Declared):
    """What should run."""

    kind: Literal["deployment"] = "deployment"
    name: Name = Field(description="Lower-case letters, digits and '-'.")
    model: str = Field(description="`NAME` or `NAME@VERSION`; the version is an alias or the start of a digest.")
    endpoint: Name | None = Field(default=None, description="The name clients call; the deployment's name if left out.")
    replicas: int = Field(default=1, ge=0, le=MAX_REPLICAS, description="How many copies run.")
    autoscale: Autoscale | None = Field(
        default=None, description="Let the number of replicas follow the traffic, instead of `replicas`."
    )
    replica_concurrency: int | None = Field(
        default=None, ge=1, le=100_000, description="Requests one replica takes at once; more wait in the queue."
    )
    queue: Queue = Field(default=Queue(), description="How many requests may wait for a replica, and how long.")
    pinned: bool = Field(default=False, description="Never evict a replica for the sake of another model.")
    min_residency_seconds: float = Field(
        default=60, ge=0, le=86400, description="How long a ready replica stays at the least before it may be evicted."
    )
    engine: EngineName | None = Field(default=None, description="Replaces the card's engine.")
    args: tuple[str, ...] = Field(default=(), description="Arguments for the engine, after the card's.")
    env: dict[str, Value] = Field(default_factory=dict, description="Added to the card's environment.")
    context_length: int | None = Field(default=None, gt=0, description="Tokens of context to serve.")
    resources: Resources = Field(default=Resources(), description="What one replica gets.")
    start_timeout_seconds: float = Field(
        default=900,
        gt=0,
        le=86400,
        description="Seconds an engine may take to start; past it the replica has failed.",
    )
    drain_seconds: float = Field(
        default=30,
        ge=0,
        le=86400,
        description="Seconds a stopping replica has to finish the requests it is working on.",
    )
    weight: int = Field(
        default=100,
        ge=1,
        le=1000,
        description="Its part of the requests, beside those of the other deployments at the same endpoint.",
    )
    update: Update = Field(default=Update(), description="How a change replaces replicas.")
    limits: Limits = Field(default=Limits(), description="Bounds on the use of the endpoint by all keys together.")
    balance: Balance = Field(
        default="least_outstanding",
        description="How a replica is chosen: the one with the least to do, or one that knows the prompt's start.",
    )
    force: bool = Field(default=False, description="Start although the memory estimate says that it does not fit.")

    @field_validator("model")
    @classmethod
    def _reference(cls, value: str) -> str:
        parse_model_ref(value)
        return value

    @model_validator(mode="after")
    def _one_number(self) -> Self:
        if self.autoscale is not None and "replicas" in self.model_fields_set:
            raise ValueError(
                f"replicas {self.replicas} and autoscale are given together; leave one out, or write the bounds as "
                "autoscale.min_replicas and autoscale.max_replicas"
            )
        return self

    @model_serializer(mode="wrap")
    def _one_written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        if self.autoscale is not None:
            written.pop("replicas", None)
        return written

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        # The schema of what is written is that of what is read: the serializer only leaves a field out.
        return handler(_without_serializer(core_schema))

    @property
    def endpoint_name(self) -> str:
        """The name clients call."""
        return self.endpoint or self.name


def _without_serializer(schema: CoreSchema) -> CoreSchema:
    """A model's schema, inside its validators or alone, that is written field by field."""
    plain: Any = {key: value for key, value in schema.items() if key != "serialization"}
    if plain["type"] != "model":
        plain["schema"] = _without_serializer(plain["schema"])
    return plain
