"""What the arguments of a card and a deployment tell of an engine's memory."""

from __future__ import annotations

from collections.abc import Sequence


def value_of(args: Sequence[str], *flags: str) -> str | None:
    """The value of the last of `flags` among the arguments, written `--flag value` or `--flag=value`."""
    found: str | None = None
    for index, argument in enumerate(args):
        name, is_joined, value = argument.partition("=")
        if name in flags and is_joined:
            found = value
        elif argument in flags and index + 1 < len(args):
            found = args[index + 1]
    return found


def whole_of(args: Sequence[str], *flags: str) -> int | None:
    """The same as a positive whole number; None if there is none: the engine says what is wrong with it."""
    text = value_of(args, *flags)
    return int(text) if text is not None and text.isdecimal() and int(text) > 0 else None


def share_of(args: Sequence[str], *flags: str) -> float | None:
    """The same as a number above 0 and at most 1."""
    text = value_of(args, *flags)
    try:
        share = float(text) if text is not None else 0.0
    except ValueError:
        return None
    return share if 0 < share <= 1 else None
