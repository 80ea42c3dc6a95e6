"""Refusals that only a server of HTTP gives: their status codes are HTTP's, their place is the one error tree."""

from __future__ import annotations

from typing import Literal

from hostler.spec.errors import HostlerError, InvalidRequest, MethodNotAllowed, TooLarge, Unavailable

MAX_HOPS = 4
"""Gateways a request may pass from provider to provider."""
LimitName = Literal[
    "key_rpm", "key_tpm", "key_max_concurrency", "endpoint_rpm", "endpoint_tpm", "endpoint_max_concurrency"
]


class HeadersTooLarge(TooLarge):
    status = 431
    default_code = "headers_too_large"


class UrlTooLong(TooLarge):
    status = 414
    default_code = "url_too_long"


class ExpectationFailed(InvalidRequest):
    status = 417
    default_code = "expectation_failed"


class MethodUnknown(InvalidRequest):
    status = 501
    default_code = "method_not_implemented"


class VersionUnsupported(InvalidRequest):
    status = 505
    default_code = "http_version_not_supported"


class Misdirected(InvalidRequest):
    status = 421
    default_code = "misdirected_request"


class LoopDetected(InvalidRequest):
    status = 508
    default_code = "loop_detected"


def check_hops(hops: int, *, model: str) -> None:
    """Raise `LoopDetected` if a request has passed too many gateways: `model` is on this platform itself, say."""
    if hops >= MAX_HOPS:
        raise LoopDetected(
            f"The external model {model!r} leads back to itself, by way of {MAX_HOPS} gateways.",
            hint="Give it the address and the model's name of another service.",
            param="model",
        )


class RequestTimeout(HostlerError):
    status = 408
    kind = "invalid_request_error"
    default_code = "request_timeout"


class RateLimited(HostlerError):
    """A caller's limit is reached: `limit` is whose and which (`key_rpm`), `wait_s` when to try again, None for never.

    `kind` and `code` are those of OpenAI's API.
    """

    status = 429
    exit_code = 5
    kind = "rate_limit_error"
    default_code = "rate_limit_exceeded"

    def __init__(self, message: str, *, hint: str, param: str, limit: LimitName, wait_s: float | None) -> None:
        self.limit: LimitName = limit
        self.wait_s = wait_s
        super().__init__(message, hint=hint, param=param)


class NoRoom(Unavailable):
    """A request that could not wait, or waited in vain. `retry_after_s` is when there is likely to be room."""

    def __init__(self, message: str, *, hint: str, code: str, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message, hint=hint, param="model", code=code)


class WrongMethod(MethodNotAllowed):
    """A known path asked with a method it does not have; `allowed` goes into the `Allow` header."""

    def __init__(self, path: str, *, method: str, allowed: tuple[str, ...]) -> None:
        self.allowed = allowed
        super().__init__(f"{path} does not take {method}.", hint=f"Use {' or '.join(allowed)}.")


def malformed(reason: str) -> InvalidRequest:
    """A request that is not HTTP/1.1 as RFC 9112 has it; nothing after it on the connection can be trusted."""
    return InvalidRequest(f"The request is not valid HTTP/1.1: {reason}.", code="malformed_request")
