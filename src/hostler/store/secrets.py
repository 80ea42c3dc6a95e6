"""Secrets that must be used as they are (a provider's key): one file each, mode 0600, in a folder of mode 0700."""

from __future__ import annotations

import os
from pathlib import Path
from secrets import token_hex

from hostler.spec.errors import NotFound
from hostler.spec.names import check_name


class SecretFiles:
    """The secrets in `folder`. Values are never logged and never part of an error."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        return sorted(path.name for path in self._folder.iterdir() if not path.name.startswith("."))

    def put(self, name: str, value: str) -> None:
        """Keep `value`, replacing the one before, atomically."""
        path = self._path(name)
        temporary = self._folder / f".{name}.{token_hex(8)}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(value.encode())
        temporary.replace(path)

    def get(self, name: str) -> str:
        """The value; `NotFound` says how to set it."""
        try:
            return self._path(name).read_bytes().decode()
        except FileNotFoundError:
            raise NotFound(
                f"secret: there is no secret {name!r}.",
                hint=f"Set it with `hostler secret set {name}`.",
                param="secret",
                code="secret_not_found",
            ) from None

    def delete(self, name: str) -> None:
        """Forget the secret; `NotFound` if there is none."""
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            raise NotFound(f"secret: there is no secret {name!r}.", param="secret", code="secret_not_found") from None

    def _path(self, name: str) -> Path:
        return self._folder / check_name(name, param="secret")
