"""A client's connection, as an exchange uses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from hostler.spec.errors import HostlerError


class Client(Protocol):
    """Takes an answer. `write` sends a part of it.

    Who inherits from it is called directly where the gateway is compiled; whoever only looks like it is called too.
    """

    __slots__ = ()

    write: Callable[[bytes], None]

    @property
    def closing(self) -> bool:
        """Whether the connection ends with this answer."""
        ...

    @property
    def full(self) -> bool:
        """Whether more is waiting for the client than it should."""
        ...

    def hold_body(self, *, held: bool) -> None:
        """Stop reading the request's body, or go on."""

    def answered(self, *, close: bool) -> None:
        """The whole answer is written; the exchange is over."""

    def refuse(self, error: HostlerError) -> None:
        """Nothing was written; answer with `error`. The exchange is over."""

    def cut(self, *, reset: bool) -> None:
        """The answer is broken off; let the client see that. `reset` where an orderly end would look like the whole."""
