"""Connections to the control API are bounded in number and in the time to their first request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import uvicorn
from tests.control_under_test import ControlUnderTest

from hostler.ports import listening_socket
from hostler.web import protocol
from hostler.web.app import create_app


@pytest.fixture
async def port(control: ControlUnderTest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(protocol, "FIRST_REQUEST_TIMEOUT_S", 0.3)
    config = uvicorn.Config(
        create_app(control.verbs), http=protocol.BoundedProtocol, log_config=None, lifespan="off", access_log=False
    )
    server = uvicorn.Server(config)
    with listening_socket("127.0.0.1", 0, flag="--api-port") as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        yield listener.getsockname()[1]
        server.should_exit = True
        await serving


async def closed(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(20):
        try:
            return await reader.read() == b""
        except ConnectionResetError:
            return True


async def test_a_connection_without_a_request_is_closed(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
    assert await closed(reader)
    writer.close()


async def test_connections_above_the_limit_are_closed_at_once(port: int) -> None:
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert await closed(reader)
    for _, one in [*opened, (reader, writer)]:
        one.close()
