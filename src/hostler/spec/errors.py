"""The one error tree. The HTTP status and the exit code of each are data; edges map them once.

HostlerError                500 / 1
  InvalidRequest            400 / 4   a field, value or body is wrong (param names it)
    UnsafeModel             422 / 4   the model holds what runs code when loaded
    InsufficientMemory      409 / 4   needed and free bytes are in the message
    EngineMissing           409 / 4   the engine is not installed here
  Unauthenticated           401 / 4   no key, or a key nobody knows
  Forbidden                 403 / 4   the key may not do this
  NotFound                  404 / 3
  MethodNotAllowed          405 / 4
  Conflict                  409 / 6   it exists already, or changed meanwhile
    PortTaken               409 / 6
  TooLarge                  413 / 4
  DigestMismatch            422 / 1   bytes do not have the digest they were announced with
  InsufficientDisk          507 / 4   needed and free bytes are in the message
  UpstreamFailed            502 / 1   an engine or a remote service failed
  Unavailable               503 / 5   nothing ready, or the platform is not reachable
    LeaseLost               503 / 5   another control plane acts
  DeadlineExceeded          504 / 7
"""

from __future__ import annotations

from typing import ClassVar


class HostlerError(Exception):
    """An error with everything a person needs: what happened, where, and what to change.

    `message` is one or two plain sentences and holds no secret. `hint` says what to change. `param` names
    the field. `code` is a stable snake_case word for programs.
    """

    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "server_error"
    default_code: ClassVar[str] = "internal_error"

    def __init__(
        self, message: str, *, hint: str | None = None, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param
        self.code = code or self.default_code

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message

    def body(self) -> dict[str, dict[str, str | None]]:
        """The error in the shape of OpenAI's API: `{"error": {message, type, param, code}}`."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


class InvalidRequest(HostlerError):
    status = 400
    exit_code = 4
    kind = "invalid_request_error"
    default_code = "invalid_request"


class UnsafeModel(InvalidRequest):
    status = 422
    default_code = "unsafe_model"


class InsufficientMemory(InvalidRequest):
    status = 409
    default_code = "insufficient_memory"


class EngineMissing(InvalidRequest):
    status = 409
    default_code = "engine_missing"


class Unauthenticated(HostlerError):
    status = 401
    exit_code = 4
    kind = "authentication_error"
    default_code = "invalid_api_key"


class Forbidden(HostlerError):
    status = 403
    exit_code = 4
    kind = "permission_error"
    default_code = "forbidden"


class NotFound(HostlerError):
    status = 404
    exit_code = 3
    kind = "invalid_request_error"
    default_code = "not_found"


class MethodNotAllowed(HostlerError):
    status = 405
    exit_code = 4
    kind = "invalid_request_error"
    default_code = "method_not_allowed"


class Conflict(HostlerError):
    status = 409
    exit_code = 6
    kind = "invalid_request_error"
    default_code = "conflict"


class PortTaken(Conflict):
    default_code = "port_taken"


class TooLarge(HostlerError):
    status = 413
    exit_code = 4
    kind = "invalid_request_error"
    default_code = "request_too_large"


class DigestMismatch(HostlerError):
    status = 422
    kind = "invalid_request_error"
    default_code = "digest_mismatch"


class InsufficientDisk(HostlerError):
    status = 507
    exit_code = 4
    default_code = "insufficient_disk"


class UpstreamFailed(HostlerError):
    status = 502
    default_code = "upstream_failed"


class Unavailable(HostlerError):
    status = 503
    exit_code = 5
    default_code = "unavailable"


class LeaseLost(Unavailable):
    default_code = "lease_lost"


class DeadlineExceeded(HostlerError):
    status = 504
    exit_code = 7
    default_code = "deadline_exceeded"
