"""What every declared kind shares: strict frozen models, quantities, values that may be secrets."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from hostler.spec.names import NAME_PATTERN

_QUANTITY = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kKMGT]i?)?B?\s*$")
_UNITS = {
    "": 1,
    "k": 10**3,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}


class Declared(BaseModel):
    """A part of what users write: unknown fields are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


def parse_bytes(value: object) -> object:
    """Turn `16Gi`, `500M` or `1.5GB` into bytes; leave everything else to the validator."""
    if not isinstance(value, str):
        return value
    match = _QUANTITY.match(value)
    if match is None:
        raise ValueError(f"{value!r} is not an amount of memory; write for example 512Mi, 16Gi or 2G")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def format_bytes(value: float) -> str:
    """Bytes as people read them, in binary units: `1.5 GiB`."""
    amount = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(ge=0)]
Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class SecretRef(Declared):
    """A value kept by the platform: `{secret: NAME}`, set by `hostler secret set NAME`."""

    secret: Name = Field(description="Name of the secret whose value is used.")


Value = str | SecretRef
