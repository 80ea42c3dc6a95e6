"""The body of a request while bytes of it are still to come."""

from __future__ import annotations

from hostler.gateway.framing import ChunkedDecoder
from hostler.gateway.request import Head
from hostler.spec.snapshot import KeyGrant


class Intake:
    """Takes a body off a connection's bytes. With `collects`, its pieces are kept until it is whole."""

    __slots__ = ("_decoder", "_left", "body", "collects", "grant", "open", "since")

    def __init__(self, head: Head, grant: KeyGrant, *, collects: bool, now: float) -> None:
        self._decoder = ChunkedDecoder() if head.chunked else None
        self._left = head.content_length
        self.grant = grant
        self.collects = collects
        self.body = bytearray()
        self.open = head.has_body
        """Whether bytes of it are still to come."""
        self.since = now

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """The body's next pieces in `data`, and what follows the body. Raises `InvalidRequest` for broken chunks."""
        decoder = self._decoder
        if decoder is not None:
            pieces = decoder.feed(data)
            self.open = not decoder.finished
            return pieces, decoder.rest
        piece = data[: self._left]
        self._left -= len(piece)
        self.open = self._left > 0
        return [piece], data[len(piece) :]
