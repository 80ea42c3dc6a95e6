"""Names, references and digests: how they look and how they are read."""

from __future__ import annotations

import re
from typing import NamedTuple

from hostler.spec.errors import InvalidRequest

NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"
_NAME = re.compile(NAME_PATTERN)
_DIGEST = re.compile(DIGEST_PATTERN)
_VERSION = re.compile(r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$")
SHORT_DIGEST_LENGTH = 12


class ModelRef(NamedTuple):
    """A model and one of its versions: an alias (`latest`, `prod`), or the first hex digits of its digest."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


def check_name(value: str, *, param: str = "name") -> str:
    """Return `value` if it may name something, else raise `InvalidRequest` with a name that would do."""
    if _NAME.fullmatch(value):
        return value
    raise InvalidRequest(
        f"{param}: {value!r} is not a valid name.",
        hint=f"Use 1 to 63 lower-case letters, digits and '-', for example {suggest_name(value)!r}.",
        param=param,
        code="invalid_name",
    )


def suggest_name(value: str) -> str:
    """The nearest valid name to any text; `model` when nothing of it is left."""
    cleaned = re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-")[:63].strip("-")
    return cleaned or "model"


def parse_model_ref(value: str) -> ModelRef:
    """Read `NAME` or `NAME@VERSION`; the version is `latest` when none is given."""
    name, separator, version = value.partition("@")
    check_name(name, param="model")
    if not separator:
        return ModelRef(name, "latest")
    return ModelRef(name, check_version(version))


def check_version(value: str) -> str:
    """Return `value` if it may be an alias or the start of a digest, else raise `InvalidRequest`."""
    if not _VERSION.fullmatch(value):
        raise InvalidRequest(
            f"version: {value!r} is not a version or alias.",
            hint="Use an alias such as 'latest', or the first digits of a version's digest.",
            param="version",
            code="invalid_version",
        )
    return value


def check_digest(value: str) -> str:
    """Return `value` if it is `sha256:` and 64 hex digits, else raise `InvalidRequest`.

    Digests become paths, so nothing else may pass (CVE-2024-37032).
    """
    if not _DIGEST.fullmatch(value):
        raise InvalidRequest(
            "digest: not of the form 'sha256:' and 64 lower-case hex digits.", param="digest", code="invalid_digest"
        )
    return value


def short_digest(digest: str) -> str:
    """The digits people see: the first twelve after `sha256:`."""
    return digest.removeprefix("sha256:")[:SHORT_DIGEST_LENGTH]
