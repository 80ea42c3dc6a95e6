"""The ASGI application: routes, the bearer token, bodies, streams, errors."""

from __future__ import annotations

import asyncio
import hmac
import re
import sys
import traceback
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

import msgspec

from hostler.runner.model_server import oip
from hostler.runner.model_server.served import ModelError, ServedModel
from hostler.runner.model_server.work import Work
from hostler.spec.errors import (
    HostlerError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    Unauthenticated,
    Unavailable,
)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

LARGEST_BODY_BYTES = 64 * 1024 * 1024
JSON = (("content-type", "application/json"),)

_MODEL_PATH = re.compile(r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?(?P<verb>/ready|/infer)?")
_OPEN_PATHS = frozenset({"/health", "/v2/health/live"})
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}")


class Call(NamedTuple):
    """One request: its path, method and headers (lower-case), and the way to its connection."""

    method: str
    path: str
    headers: dict[str, str]
    request_id: str
    receive: Receive
    send: Send


class Disconnected(Exception):
    """The client is gone; there is nobody to answer."""


class ModelServer:
    """Serves one model under `name`. Until `install` has been called it is alive but not ready."""

    def __init__(self, name: str, *, token: str | None = None, queue: int = 64, concurrency: int | None = None) -> None:
        self._name = name
        self._token = token
        self._queue = queue
        self._concurrency = concurrency
        self._model: ServedModel | None = None
        self._work: Work | None = None
        self.on_startup: Callable[[], Awaitable[None]] | None = None

    def install(self, model: ServedModel) -> None:
        """Serve `model` from this moment on."""
        self._work = Work(concurrency=self._concurrency or model.concurrency, queue=self._queue)
        self._model = model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        if self.on_startup is not None:
            await self.on_startup()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if self._model is not None and self._work is not None:
            try:
                await asyncio.to_thread(self._model.unload)
            except ModelError as error:
                sys.stderr.write(f"unload failed: {error}\n")
            self._work.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        given_id = headers.get("x-request-id", "")
        request_id = given_id if _REQUEST_ID.fullmatch(given_id) else uuid.uuid4().hex
        call = Call(scope["method"], scope["path"], headers, request_id, receive, send)
        try:
            self._authorise(call)
            await self._route(call)
        except Disconnected:
            return
        except HostlerError as error:
            await _send_error(call, error)
        except ModelError as error:
            await _send_error(call, _from_model(error, request_id))
        except Exception:  # noqa: BLE001 - a connection's outermost frame
            traceback.print_exc()
            await _send_error(call, HostlerError(f"The model server failed on request {request_id}; see its log."))

    def _authorise(self, call: Call) -> None:
        if self._token is None or call.path in _OPEN_PATHS:
            return
        scheme, _, secret = call.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(secret.strip().encode(), self._token.encode()):
            raise Unauthenticated("This model server is called through the platform's front door.")

    async def _route(self, call: Call) -> None:
        path = call.path
        if path == "/predict":
            _allow(call, "POST")
            await self._predict(call)
        elif path in ("/health", "/v2/health/live"):
            _allow(call, "GET")
            await _send(call, 200, b'{"live":true}', JSON)
        elif path in ("/ready", "/v2/health/ready"):
            _allow(call, "GET")
            self._loaded()
            await _send(call, 200, b'{"ready":true}', JSON)
        elif path in ("/v2", "/v2/"):
            _allow(call, "GET")
            await _send(call, 200, oip.encode(oip.server_metadata()), JSON)
        elif (match := _MODEL_PATH.fullmatch(path)) is not None:
            await self._model_route(call, match)
        else:
            raise NotFound(
                f"There is no route {path}.", hint="Use /v2/models/NAME/infer, /predict, /ready.", code="unknown_route"
            )

    async def _model_route(self, call: Call, match: re.Match[str]) -> None:
        if match["name"] != self._name or match["version"] not in (None, oip.VERSION):
            asked = match["name"] + (f" version {match['version']}" if match["version"] else "")
            raise NotFound(
                f"There is no model {asked} here.", hint=f"This is {self._name}, version 1.", code="model_not_found"
            )
        if match["verb"] == "/infer":
            _allow(call, "POST")
            await self._infer(call)
            return
        _allow(call, "GET")
        model, _ = self._loaded()
        ready = match["verb"] == "/ready"
        content = {"name": self._name, "ready": True} if ready else oip.model_metadata(self._name, model)
        await _send(call, 200, oip.encode(content), JSON)

    async def _infer(self, call: Call) -> None:
        model, work = self._loaded()
        request, tensors, wanted = oip.read_request(await _read(call), call.headers.get(oip.HEADER_LENGTH))
        outputs = await work.call(model.infer, tensors, wanted)
        answer = oip.write_answer(self._name, request, outputs, wanted)
        await _send(call, 200, answer.body, answer.headers)

    async def _predict(self, call: Call) -> None:
        model, work = self._loaded()
        body = _object(await _read(call))
        if body.get("stream") is True:
            items = model.stream(body)
            if items is None:
                raise InvalidRequest("stream: this model does not stream.", hint="Leave `stream` out.", param="stream")
            await self._stream(call, work, lambda: items)
            return
        result = await work.call(model.predict, body)
        await _send(call, 200, _json(result), JSON)

    async def _stream(self, call: Call, work: Work, make: Callable[[], Any]) -> None:
        producing = asyncio.ensure_future(_produce(call, work.iterate(make)))
        leaving = asyncio.ensure_future(_until_gone(call))
        try:
            await asyncio.wait((producing, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            producing.cancel()
            await asyncio.wait((producing, leaving))
        if not producing.cancelled():
            producing.result()

    def _loaded(self) -> tuple[ServedModel, Work]:
        if self._model is None or self._work is None:
            raise Unavailable("The model is still loading.", hint="Try again shortly.", code="loading")
        return self._model, self._work


async def _produce(call: Call, items: Any) -> None:
    """The stream's events. What goes wrong before the first is an ordinary answer, after it an event of its own."""
    started = False
    try:
        async for item in items:
            event = b"data: " + _json(item) + b"\n\n"
            if not started:
                started = True
                await _start_stream(call)
            await call.send({"type": "http.response.body", "body": event, "more_body": True})
        if not started:
            await _start_stream(call)
        await call.send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})
    except ModelError as error:
        if not started:
            raise
        told = _from_model(error, call.request_id).body()
        event = b"data: " + msgspec.json.encode(told) + b"\n\n"
        await call.send({"type": "http.response.body", "body": event, "more_body": False})
    finally:
        await items.aclose()


async def _start_stream(call: Call) -> None:
    headers = (("content-type", "text/event-stream"), ("cache-control", "no-cache"))
    await call.send({"type": "http.response.start", "status": 200, "headers": _raw(call, headers)})


async def _until_gone(call: Call) -> None:
    while (await call.receive())["type"] != "http.disconnect":
        pass


async def _read(call: Call) -> bytes:
    if call.headers.get("content-encoding", "identity") != "identity":
        raise InvalidRequest(
            "The body is compressed.", hint="Send it without Content-Encoding.", code="compressed_body"
        )
    announced = call.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > LARGEST_BODY_BYTES:
        raise _too_large()
    parts: list[bytes] = []
    size = 0
    while True:
        message = await call.receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > LARGEST_BODY_BYTES:
            raise _too_large()
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _too_large() -> TooLarge:
    return TooLarge(f"The body is larger than {LARGEST_BODY_BYTES:,} bytes.", hint="Send fewer inputs at once.")


def _object(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.ValidationError as error:
        raise InvalidRequest("The body must be a JSON object.", code="invalid_body") from error
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from error


def _json(value: Any) -> bytes:
    try:
        return oip.encode(value)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ModelError(f"the model returned what is not JSON: {error}") from error


def _allow(call: Call, method: str) -> None:
    if call.method != method and not (method == "GET" and call.method == "HEAD"):
        raise MethodNotAllowed(f"{call.method} {call.path} is not possible.", hint=f"Use {method}.")


def _from_model(error: ModelError, request_id: str) -> HostlerError:
    return HostlerError(f"The model failed on request {request_id}: {error}", code="model_failed")


async def _send_error(call: Call, error: HostlerError) -> None:
    content: Any = {"error": str(error)} if call.path.startswith("/v2") else error.body()
    headers = [*JSON]
    if error.status == 503:
        headers.append(("retry-after", "1"))
    if error.status == 401:
        headers.append(("www-authenticate", "Bearer"))
    await _send(call, error.status, msgspec.json.encode(content), tuple(headers))


async def _send(call: Call, status: int, body: bytes, headers: tuple[tuple[str, str], ...]) -> None:
    described = (*headers, ("content-length", str(len(body))))
    await call.send({"type": "http.response.start", "status": status, "headers": _raw(call, described)})
    await call.send({"type": "http.response.body", "body": b"" if call.method == "HEAD" else body})


def _raw(call: Call, headers: tuple[tuple[str, str], ...]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in (*headers, ("x-request-id", call.request_id))]
