from __future__ import annotations

import socket
from typing import Any

import pytest
from scripted_platform import Platform

from hostler.client import Client
from hostler.spec import errors


def told(**fields: Any) -> dict[str, Any]:
    return {"error": {"message": "What happened.", "type": "t", "param": None, "code": None, **fields}}


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "invalid_field", errors.InvalidRequest),
        (401, "invalid_api_key", errors.Unauthenticated),
        (403, "forbidden", errors.Forbidden),
        (404, "not_found", errors.NotFound),
        (405, "method_not_allowed", errors.MethodNotAllowed),
        (409, "in_use", errors.Conflict),
        (409, "insufficient_memory", errors.InsufficientMemory),
        (409, "engine_missing", errors.EngineMissing),
        (409, "port_taken", errors.PortTaken),
        (413, "request_too_large", errors.TooLarge),
        (422, "unsafe_model", errors.UnsafeModel),
        (422, "digest_mismatch", errors.DigestMismatch),
        (429, "rate_limited", errors.Unavailable),
        (502, "upstream_failed", errors.UpstreamFailed),
        (503, "no_ready_replica", errors.Unavailable),
        (504, "deadline_exceeded", errors.DeadlineExceeded),
        (500, "internal_error", errors.HostlerError),
    ],
)
def test_an_error_answer_becomes_the_error_it_stands_for(
    platform: Platform, client: Client, status: int, code: str, kind: type[errors.HostlerError]
) -> None:
    platform.answer("GET", "/api/v1/status", told(code=code, param="field"), status)
    with pytest.raises(errors.HostlerError) as caught:
        client.status()
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert caught.value.param == "field"
    assert str(caught.value) == "What happened."


@pytest.mark.parametrize("body", [b"<html>\n<b>Bad  gateway</b>", b"[1]", b'{"error": null}', b'{"detail": "x"}'])
def test_an_answer_that_is_not_hostlers_is_shown_with_its_status(
    platform: Platform, client: Client, body: bytes
) -> None:
    platform.answer("GET", "/api/v1/status", body, 502)
    with pytest.raises(errors.UpstreamFailed, match=r"answered 502: \S+") as caught:
        client.status()
    assert caught.value.code == "unexpected_answer"


def test_a_platform_that_is_down_says_how_to_start_it() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with Client(url, "key", timeout_s=5) as client, pytest.raises(errors.Unavailable) as caught:
            client.status()
    assert str(caught.value) == f"The platform at {url} does not answer. Start it with `hostler up`."
    assert caught.value.exit_code == 5


def test_a_platform_that_never_answers_meets_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Client(url, "key", timeout_s=0.2) as client, pytest.raises(errors.DeadlineExceeded, match=r"0\.2 seconds"):
            client.status()


def test_an_answer_of_another_shape_names_the_field(platform: Platform, client: Client) -> None:
    platform.answer("GET", "/api/v1/status", {"version": "1"})
    with pytest.raises(errors.UpstreamFailed, match="started_at"):
        client.status()


@pytest.mark.parametrize("url", ["127.0.0.1:8001", "ftp://host", "http://", ""])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="not an address"):
        Client(url, None)


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    platform.answer("GET", "/healthz", {"status": "ok"})
    with Client(platform.url, None) as client:
        assert client.healthy()
