"""The model card (`model.yaml`): what a model is, where its files come from, how it is run."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from hostler.spec.errors import InvalidRequest
from hostler.spec.fields import Declared, Name, Value
from hostler.spec.limits import Limits

EngineName = Name
"""`llamacpp`, `vllm`, `onnx`, `python`, `command`, `external`, or one that a package brings."""
SOURCE_KINDS = ("path", "hf", "modelscope", "s3", "https")


class Task(StrEnum):
    """What the model does; it decides what the console offers and how use is metered."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    RERANK = "rerank"
    CLASSIFICATION = "classification"
    GENERAL = "general"


class Source(Declared):
    """Where the files come from. Exactly one of the places is given."""

    path: str | None = Field(default=None, description="A folder or file on the machine that runs the command.")
    hf: str | None = Field(default=None, description="A Hugging Face repository, `org/repo`.")
    modelscope: str | None = Field(default=None, description="A ModelScope repository, `org/repo`.")
    s3: str | None = Field(default=None, description="`s3://bucket/prefix`.")
    https: str | None = Field(default=None, description="The address of one file.")
    revision: str | None = Field(default=None, description="Branch, tag or commit, for `hf` and `modelscope`.")

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [kind for kind in SOURCE_KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(SOURCE_KINDS)}; got {', '.join(given) or 'none'}")
        if self.revision is not None and given[0] not in ("hf", "modelscope"):
            raise ValueError(f"revision applies to hf and modelscope, not to {given[0]}")
        return self

    @property
    def place(self) -> tuple[str, str]:
        """The kind and the place, for example `("hf", "org/repo")`."""
        for kind in SOURCE_KINDS:
            value = getattr(self, kind)
            if value is not None:
                return kind, value
        raise AssertionError("validated: one place is given")


def parse_source(text: str) -> Source:
    """Read a source as people type it: `hf:org/repo@rev`, `modelscope:org/repo`, `s3://...`, `https://...`, a path."""
    for kind in ("hf", "modelscope"):
        if text.startswith(f"{kind}:"):
            place, _, revision = text[len(kind) + 1 :].partition("@")
            if place.count("/") != 1 or not all(place.split("/")):
                raise InvalidRequest(
                    f"{text!r} is not a repository.",
                    hint=f"Write {kind}:org/repo or {kind}:org/repo@revision.",
                    param="source",
                    code="invalid_source",
                )
            return Source.model_validate({kind: place, "revision": revision or None})
    if text.startswith("s3://"):
        return Source(s3=text)
    if text.startswith(("https://", "http://")):
        return Source(https=text)
    return Source(path=text)


class Readiness(Declared):
    """How to tell that the engine can answer."""

    path: str = Field(
        default="/health", description="A GET of this path answers 200 once the engine can serve.", pattern="^/"
    )
    timeout_seconds: float = Field(default=900, gt=0, le=86400, description="Seconds the engine may take to get there.")


class Warmup(Declared):
    """A request that must succeed before a replica is ready."""

    path: str = Field(description="Path of the engine's HTTP.", pattern="^/")
    body: dict[str, Any] | None = Field(default=None, description="JSON body; without one the request is a GET.")


class PythonModel(Declared):
    """A model that is a Python class with `load`, `predict` and, if it likes, `stream` and `unload`."""

    entry: str = Field(
        default="model:Model", description="`module:Class` inside the model's folder.", pattern=r"^[\w.]+:\w+$"
    )
    requirements: str | None = Field(
        default=None, description="Requirements file inside the folder; it gets its own environment."
    )
    python: str | None = Field(default=None, description="Python version for that environment, for example `3.12`.")


class External(Declared):
    """A provider's OpenAI-compatible service, called under a name of this platform."""

    base_url: str = Field(description="The provider's address up to and with `/v1`.", pattern=r"^https?://")
    model: str | None = Field(
        default=None, description="The provider's name of the model; the card's name if left out."
    )
    api_key: Value | None = Field(default=None, description="The provider's key, as `{secret: NAME}`.")
    limits: Limits = Field(default=Limits(), description="Bounds on the use of the endpoint by all keys together.")

    @field_validator("base_url")
    @classmethod
    def _usable_address(cls, value: str) -> str:
        try:
            url = urlsplit(value)
            usable = bool(url.hostname) and url.port != 0
        except ValueError as error:
            raise ValueError(f"not an address: {error}") from None
        if not usable or "@" in url.netloc or url.query or url.fragment:
            raise ValueError("write https://HOST[:PORT]/PATH, without a user, a query or a fragment")
        return value

    @field_validator("api_key")
    @classmethod
    def _secret_only(cls, value: Value | None) -> Value | None:
        if isinstance(value, str):
            raise ValueError("do not write the key into the card; use {secret: NAME} and `hostler secret set NAME`")
        return value


class ModelSpec(Declared):
    """A model card."""

    kind: Literal["model"] = "model"
    name: Name = Field(description="Lower-case letters, digits and '-'.")
    description: str = Field(default="", max_length=2000, description="One line for people.")
    task: Task = Field(default=Task.GENERAL, description="What the model does.")
    license: str | None = Field(default=None, description="SPDX identifier.")
    source: Source | None = Field(
        default=None, description="Where the files come from; relative paths start at the card."
    )
    engine: EngineName | None = Field(default=None, description="Engine; chosen from the files if left out.")
    args: tuple[str, ...] = Field(default=(), description="Further arguments for the engine, as they are.")
    env: dict[str, Value] = Field(default_factory=dict, description="Environment of the engine.")
    command: tuple[str, ...] = Field(default=(), description="For `command`: the program; it listens on `$PORT`.")
    context_length: int | None = Field(
        default=None, gt=0, description="Tokens of context to serve; the model's own if left out."
    )
    readiness: Readiness | None = Field(default=None, description="How to tell that the engine can answer.")
    warmup: tuple[Warmup, ...] = Field(default=(), description="Requests that must succeed before a replica is ready.")
    python: PythonModel | None = Field(default=None, description="For `python`: the class.")
    external: External | None = Field(default=None, description="For `external`: the provider.")
    request_example: dict[str, Any] | None = Field(default=None, description="A request people can copy.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.engine == "command" and not self.command:
            raise ValueError("engine 'command' needs command: [program, argument, ...]")
        if self.command and self.engine not in (None, "command"):
            raise ValueError(f"command belongs to engine 'command', not to {self.engine!r}")
        if self.engine == "external" and self.external is None:
            raise ValueError("engine 'external' needs external: {base_url: ..., api_key: {secret: ...}}")
        if self.external is not None and self.engine not in (None, "external"):
            raise ValueError(f"external belongs to engine 'external', not to {self.engine!r}")
        if self.python is not None and self.engine not in (None, "python"):
            raise ValueError(f"python belongs to engine 'python', not to {self.engine!r}")
        return self

    @property
    def is_external(self) -> bool:
        """Whether the model is a provider's service, so that nothing is run for it."""
        return self.external is not None
