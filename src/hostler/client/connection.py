"""One HTTP connection pool to a platform: requests with the key, errors as the error tree."""

from __future__ import annotations

import ssl
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from hostler.client.failures import connection_error, error_from
from hostler.spec.errors import HostlerError, InvalidRequest, UpstreamFailed

Answer = TypeVar("Answer")
CONNECT_TIMEOUT_S = 5.0
_LOOPBACK = ("127.", "localhost", "::1")


class Connection:
    """Requests below `url`, with `api_key` as bearer token. Safe for several threads; close it when done.

    Every request raises a `HostlerError` if it fails: the platform's own, `Unavailable` if nothing answers,
    `DeadlineExceeded` if a read takes longer than `timeout_s` seconds. Nothing is retried here.
    """

    def __init__(self, url: str, api_key: str | None, *, timeout_s: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidRequest(
                f"{url!r} is not an address.", hint="Write for example http://127.0.0.1:8001.", param="url"
            )
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self._http = httpx.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
            limits=httpx.Limits(max_connections=16, keepalive_expiry=30),
            # Loading the certificates costs time that plain HTTP need not pay; redirects are never followed. What the
            # system trusts is trusted; SSL_CERT_FILE names other roots, on this machine too.
            verify=ssl.create_default_context() if parts.scheme == "https" else False,
            # A proxy set for the internet cannot reach this machine's own platform.
            trust_env=not parts.hostname.startswith(_LOOPBACK),
        )

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int | bool | None] | None = None,
        body: BaseModel | Mapping[str, Any] | None = None,
        content: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        accept: tuple[int, ...] = (),
        timeout_s: float | None = None,
    ) -> httpx.Response:
        """The whole answer. Statuses from 400 on raise, unless `accept` names them.

        `timeout_s` replaces the connection's own where it is longer.
        """
        read_timeout_s = max(self.timeout_s, timeout_s or 0.0)
        sent = dict(headers or {})
        if isinstance(body, BaseModel):
            content = body.model_dump_json(exclude_unset=True).encode()
            sent["content-type"] = "application/json"
        try:
            answer = self._http.request(
                method,
                path,
                params=_without_none(params),
                content=content,
                json=body if isinstance(body, Mapping) else None,
                headers=sent,
                timeout=httpx.Timeout(read_timeout_s, connect=min(CONNECT_TIMEOUT_S, self.timeout_s)),
            )
        except httpx.TransportError as error:
            raise connection_error(error, url=self.url, timeout_s=read_timeout_s) from error
        if answer.status_code >= 400 and answer.status_code not in accept:
            raise self.error(answer)
        return answer

    def fetch(self, kind: type[Answer], method: str, path: str, **options: Any) -> Answer:
        """As `send`, with the answer read as `kind`."""
        answer = self.send(method, path, **options)
        return self.read(kind, answer.content)

    def read(self, kind: type[Answer], content: bytes) -> Answer:
        """`content` as a `kind`, or `UpstreamFailed` if it is something else."""
        try:
            return _adapter(kind).validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise UpstreamFailed(
                f"{self.url} sent an answer that is not understood ({place or 'body'}: {first['msg']}).",
                hint="Is it a Hostler platform of another version? See `hostler --version` and `hostler status`.",
            ) from None

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int | bool | None] | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        endless: bool = False,
    ) -> Generator[httpx.Response]:
        """An answer to be read piece by piece. `endless` waits for the next piece as long as it takes."""
        timeout = httpx.Timeout(self.timeout_s, connect=CONNECT_TIMEOUT_S, read=None if endless else self.timeout_s)
        try:
            with self._http.stream(
                method, path, params=_without_none(params), json=body, headers=headers, timeout=timeout
            ) as answer:
                if answer.status_code >= 400:
                    answer.read()
                    raise self.error(answer)
                yield answer
        except httpx.TransportError as error:
            raise connection_error(error, url=self.url, timeout_s=self.timeout_s) from error

    def error(self, answer: httpx.Response) -> HostlerError:
        """The error of an answer that has been read."""
        return error_from(answer.status_code, answer.content, url=self.url)


@cache
def _adapter(kind: type[Answer]) -> TypeAdapter[Answer]:
    return TypeAdapter(kind)


def _without_none(params: Mapping[str, str | int | bool | None] | None) -> dict[str, str | int | bool]:
    return {name: value for name, value in (params or {}).items() if value is not None}
