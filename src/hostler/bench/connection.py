"""One connection of a load: sends, reads the whole answer, sends again."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import cast

import httptools

from hostler.bench.answers import AnswerReader
from hostler.bench.tally import Tally

_SHOWN_BYTES = 400


class LoadConnection(asyncio.Protocol):
    """Speaks HTTP/1.1 on one transport. `ended` is called once, when the connection is of no use any more."""

    def __init__(
        self, request: bytes, *, tally: Tally, stream: bool, timeout_s: float, ended: Callable[[], None]
    ) -> None:
        self._request = request
        self._tally = tally
        self._stream = stream
        self._timeout_s = timeout_s
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._open = True
        self.clean = False
        """Whether the last answer was a good one, so that a new connection may follow at once."""
        self._reused = False
        self._sent_at = 0.0
        self._answered = True
        self._start_reading()

    def _start_reading(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._reader = AnswerReader(stream=self._stream)
        self._status = 0
        self._keep_alive = True
        self._first_content_s: float | None = None
        self._error_text = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._tally.received(len(data))
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail("protocol")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self._reused and not self._status and not self._answered:
            # A server may close an idle connection at any time; the request that met the close is sent again on a
            # new one, as every HTTP client does.
            self._answered = self.clean = True
        self._fail("cut")

    def close(self) -> None:
        """Stop without counting what is under way."""
        self._close()

    # httptools' callbacks

    def on_status(self, status: bytes) -> None:  # noqa: ARG002
        self._status = self._parser.get_status_code()

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        self._keep_alive = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        if self._status >= 400:
            self._error_text = (self._error_text + body)[:_SHOWN_BYTES]
        elif self._reader.feed(body):
            self._first_content_s = time.perf_counter() - self._sent_at

    def on_message_complete(self) -> None:
        if not self._open or self._status < 200:
            return
        took_s = time.perf_counter() - self._sent_at
        self._answered = True
        problem = self._reader.cut()
        if self._status >= 400:
            self._tally.failed(f"HTTP {self._status}", text=self._error_text.decode("utf-8", "replace"))
        elif problem is not None:
            self._tally.failed("error in the stream", text=problem)
        else:
            self.clean = True
            self._tally.answered(took_s, first_content_s=self._first_content_s, tokens=self._reader.tokens())
        # Only outside the parser's own call may it be replaced.
        self._loop.call_soon(self._next)

    def _next(self) -> None:
        if not self._open:
            return
        if not self._keep_alive or self._transport is None or self._transport.is_closing():
            self._close()
            return
        self._reused = True
        self._start_reading()
        self._send()

    def _send(self) -> None:
        if self._transport is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._answered = self.clean = False
        self._timer = self._loop.call_later(self._timeout_s, self._fail, "timeout")
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)

    def _fail(self, kind: str) -> None:
        if self._open and not self._answered:
            self._answered = True
            self._tally.failed(kind)
        self._close()

    def _close(self) -> None:
        if not self._open:
            return
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._ended()


def tls_context(scheme: str) -> ssl.SSLContext | None:
    """The checks of an https address; None for http."""
    return ssl.create_default_context() if scheme == "https" else None
