"""HTTP for the control API: uvicorn's protocol, with a bound on connections and on the time to the first request."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_CONNECTIONS = 1000
"""Far below the limit on open files: the reconciler needs some too."""

FIRST_REQUEST_TIMEOUT_S = 10.0


class BoundedProtocol(HttpToolsProtocol):
    """Closes at once what is above `MAX_CONNECTIONS`, and what sent no whole head in `FIRST_REQUEST_TIMEOUT_S`."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("Any", transport))
        if len(self.connections) > MAX_CONNECTIONS:
            cast("asyncio.Transport", transport).abort()
            return
        self.loop.call_later(FIRST_REQUEST_TIMEOUT_S, self._expect_a_request)

    def _expect_a_request(self) -> None:
        if getattr(self, "cycle", None) is None and not self.transport.is_closing():
            self.transport.close()
