"""Who is signed in to the console: random tokens in memory, each standing for an admin key that is still good."""

from __future__ import annotations

import hashlib
import secrets

from hostler.control.verbs import Verbs

COOKIE = "hostler_session"
LIFE_S = 12 * 3600
MAX_SESSIONS = 1000


class Sessions:
    """Sessions of one control process; they end with it, after `LIFE_S`, or with their key."""

    def __init__(self, verbs: Verbs) -> None:
        self._verbs = verbs
        self._open: dict[str, tuple[str, float]] = {}

    def begin(self, key_digest: str) -> str:
        """A new session for the key with this digest; answers its token. The oldest goes when there are too many."""
        token = secrets.token_urlsafe(32)
        while len(self._open) >= MAX_SESSIONS:
            del self._open[next(iter(self._open))]
        self._open[_digest(token)] = (key_digest, self._verbs.context.now() + LIFE_S)
        return token

    def is_open(self, token: str) -> bool:
        """Whether the token's session lasts and its key still is a usable admin key. Blocks on the database."""
        found = self._open.get(_digest(token))
        if found is None:
            return False
        key_digest, ends_at = found
        if self._verbs.context.now() >= ends_at or not self._verbs.keys.is_admin(key_digest):
            self.end(token)
            return False
        return True

    def end(self, token: str) -> None:
        """End a session. Idempotent."""
        self._open.pop(_digest(token), None)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
