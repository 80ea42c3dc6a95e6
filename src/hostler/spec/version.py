"""A version: an immutable manifest of files by digest, with the card and what the files say of themselves."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from enum import StrEnum
from typing import Self

from pydantic import Field, field_validator

from hostler.spec.errors import InvalidRequest
from hostler.spec.fields import Declared
from hostler.spec.model import ModelSpec
from hostler.spec.names import DIGEST_PATTERN

MAX_FILES = 10_000


class ModelFormat(StrEnum):
    """The format of the weights."""

    GGUF = "gguf"
    SAFETENSORS = "safetensors"
    ONNX = "onnx"
    PYTHON = "python"
    NONE = "none"


class ModelFile(Declared):
    """One file of a version."""

    path: str = Field(description="Relative to the model's folder, '/' between parts.", max_length=1024)
    digest: str = Field(pattern=DIGEST_PATTERN)
    size: int = Field(ge=0, description="Bytes.")

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, value: str) -> str:
        check_file_path(value)
        return value


class ModelFacts(Declared):
    """What the files say of themselves, read from their headers. Unknown is None, never a guess."""

    format: ModelFormat = ModelFormat.NONE
    entry: str | None = Field(default=None, description="The file to open first (a GGUF's first shard, the ONNX file).")
    architecture: str | None = None
    parameters: int | None = Field(default=None, description="Number of weights.")
    weight_bytes: int = Field(default=0, description="Bytes of the weight files.")
    quantization: str | None = Field(default=None, description="Type of most weights, for example F16 or Q8_0.")
    context_length: int | None = Field(default=None, description="Tokens the model was made for.")
    layers: int | None = None
    attention_heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    has_chat_template: bool = False


class ModelVersion(Declared):
    """An immutable build of a model."""

    model: str
    digest: str = Field(pattern=DIGEST_PATTERN, description="Of the card and the files: see `manifest_digest`.")
    card: ModelSpec
    files: tuple[ModelFile, ...] = Field(default=(), max_length=MAX_FILES)
    facts: ModelFacts = ModelFacts()
    created_at: datetime
    allowed: tuple[str, ...] = Field(default=(), description="What the safety scan was told to allow.")

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @classmethod
    def build(
        cls,
        card: ModelSpec,
        *,
        files: tuple[ModelFile, ...],
        facts: ModelFacts,
        created_at: datetime,
        allowed: tuple[str, ...] = (),
    ) -> Self:
        """A version of `card` with these files, sorted by path, under the digest they make."""
        ordered = tuple(sorted(files, key=lambda file: file.path))
        return cls(
            model=card.name,
            digest=manifest_digest(card, ordered),
            card=card,
            files=ordered,
            facts=facts,
            created_at=created_at,
            allowed=allowed,
        )


def manifest_digest(card: ModelSpec, files: tuple[ModelFile, ...]) -> str:
    """sha256 over the canonical JSON of the card (without its source) and of every file's path, digest and size.

    Equal content gives an equal digest wherever the files came from.
    """
    content = {
        "card": card.model_dump(mode="json", exclude={"source"}, exclude_defaults=True),
        "files": [[file.path, file.digest, file.size] for file in sorted(files, key=lambda file: file.path)],
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def check_file_path(path: str) -> None:
    """Raise `InvalidRequest` unless `path` is relative, plain and stays inside the model's folder."""
    parts = path.split("/")
    bad = (
        not path
        or path.startswith("/")
        or "\\" in path
        or any(ord(character) < 32 for character in path)
        or any(part in ("", ".", "..") for part in parts)
    )
    if bad:
        raise InvalidRequest(
            f"files: the path {path!r} leaves the model's folder or is not plain.",
            hint="Use relative paths with '/' and without '..'.",
            param="files",
            code="invalid_path",
        )
