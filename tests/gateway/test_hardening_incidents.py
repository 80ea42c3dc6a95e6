"""The incidents of other systems, each tried on this one. docs/hardening.md lists them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from front_door import ADMIN_KEY, EXPIRED_KEY, KEY, NARROW_KEY, Gateway, World, endpoint, snapshot
from front_strict import Script, StrictUpstream
from front_upstream import LoopThread, ScriptedUpstream

from hostler.gateway.admission import authenticate
from hostler.gateway.request import read_head
from hostler.gateway.snapshot_file import write_snapshot
from hostler.gateway.table import Pools
from hostler.settings import Home
from hostler.spec.errors import Unauthenticated
from hostler.spec.snapshot import ExternalTarget

CHAT = b'{"model":"chat"}'
AUTHORIZED = f"host: door\r\nauthorization: Bearer {KEY}\r\n".encode()


@pytest.fixture
def strict(world: World, loop_thread: LoopThread) -> Iterator[StrictUpstream]:
    upstream = StrictUpstream(loop_thread)
    world.serve(endpoint("tried", upstream.port), endpoint("triedflask", upstream.port, protocols=("any",)))
    yield upstream
    world.remove("tried")
    world.remove("triedflask")
    upstream.close()
    assert upstream.complaints == []


@pytest.mark.parametrize(
    "host",
    ["door/healthz?", "door/healthz#", "door?/healthz", "door\\healthz", "a@door", "door/v1/models/../..", "a b"],
)
def test_cve_2026_48710_badhost_a_host_header_never_changes_which_path_is_authorised(
    gateway: Gateway, upstream: ScriptedUpstream, host: str
) -> None:
    with gateway.wire() as wire:
        wire.send(b"GET /v1/models HTTP/1.1\r\nhost: %b\r\n\r\n" % host.encode())
        assert wire.reply().status == 400
        assert wire.ends()
    assert upstream.seen == []


def test_cve_2026_48710_badhost_the_host_is_not_passed_on(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    reply = gateway.chat("chat", x_forwarded_host="healthz")
    assert reply.json["headers"]["host"] == f"127.0.0.1:{upstream.port}"


@pytest.mark.parametrize(
    "key", ["hk_' OR '1'='1", "hk_x'; DROP TABLE keys;--", 'hk_"', "hk_%", "hk_everyone_%", "hk_\\"]
)
def test_litellm_cve_2026_42208_a_key_is_looked_up_by_its_digest_alone(gateway: Gateway, key: str) -> None:
    reply = gateway.chat("chat", key=key)
    assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
    assert key not in reply.body.decode()


@pytest.mark.parametrize("size", [12, 20, 32, len(KEY) - 1])
def test_litellm_cve_2026_35030_keys_that_begin_alike_are_not_taken_for_one_another(
    gateway: Gateway, upstream: ScriptedUpstream, size: int
) -> None:
    assert gateway.chat("chat").status == 200
    for key in (KEY[:size], KEY[:size] + "z" * (len(KEY) - size), KEY + "a"):
        assert gateway.chat("chat", key=key).status == 401
    assert gateway.chat("chat").status == 200


@pytest.mark.parametrize("field", ["api_base", "base_url", "api_key", "custom_llm_provider", "litellm_params"])
def test_litellm_cve_2024_6587_a_caller_never_chooses_where_a_request_goes(
    world: World, gateway: Gateway, upstream: ScriptedUpstream, field: str
) -> None:
    elsewhere = f"http://127.0.0.1:{world.dead_port}/v1"
    body = json.dumps({"model": "provider", field: {"api_base": elsewhere} if field == "litellm_params" else elsewhere})
    reply = gateway.ask("POST", f"/v1/chat/completions?api_base={elsewhere}", body=body.encode(), x_api_base=elsewhere)
    assert reply.status == 200
    assert reply.json["port"] == world.other.port
    assert reply.json["headers"]["host"] == f"127.0.0.1:{world.other.port}"
    assert reply.json["headers"]["authorization"] == "Bearer sk-theirs"
    assert reply.json["target"] == "/api/v1/chat/completions"


def test_litellm_cve_2024_9606_no_key_is_in_the_log_or_in_an_answer(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    wrong = "hk_wrongly_" + "e" * 40
    replies = [gateway.chat("chat", key=wrong), gateway.chat("nothing"), gateway.chat("gone"), gateway.chat("asleep")]
    replies += [gateway.ask("GET", "/v1/models", key=EXPIRED_KEY), gateway.ask("GET", "/v1/models", x_api_key=wrong)]
    with gateway.wire() as wire:
        wire.send(b"GET /v1/models HTTP/1.1\r\n" + AUTHORIZED + b"bad header\r\n\r\n")
        replies.append(wire.reply())
    told = gateway.log + "".join(reply.body.decode() for reply in replies)
    for secret in (wrong, EXPIRED_KEY, KEY, "sk-theirs", "token-of-the-replica"):
        assert secret not in told
        assert hashlib.sha256(secret.encode()).hexdigest() not in told


CREDENTIALS: dict[str, Callable[[str], str]] = {
    "authorization": lambda key: f"authorization: Bearer {key}\r\n",
    "authorization_in_small_letters": lambda key: f"Authorization: bearer {key}\r\n",
    "x_api_key": lambda key: f"x-api-key: {key}\r\n",
    "x_api_key_in_capitals": lambda key: f"X-API-KEY: {key}\r\n",
    "x_api_key_behind_basic": lambda key: f"authorization: Basic eA==\r\nx-api-key: {key}\r\n",
}


@pytest.mark.parametrize("line", CREDENTIALS.values(), ids=list(CREDENTIALS))
def test_openwebui_cve_2026_45339_x_api_key_is_checked_as_authorization_is(
    gateway: Gateway, upstream: ScriptedUpstream, line: Callable[[str], str]
) -> None:
    def status(key: str, path: str = "/v1/chat/completions") -> int:
        with gateway.wire() as wire:
            head = f"POST {path} HTTP/1.1\r\nhost: door\r\n{line(key)}content-length: 16\r\n\r\n"
            wire.send(head.encode() + CHAT)
            return wire.reply().status

    assert status(KEY) == 200
    assert status(NARROW_KEY) == 403
    assert status(EXPIRED_KEY) == 401
    assert status("hk_wrong") == 401
    assert status(KEY, "/endpoints/chat/slots") == 404
    assert status(ADMIN_KEY, "/endpoints/chat/slots") == 200
    for seen in upstream.seen:
        assert "x-api-key" not in seen.headers
        assert seen.headers["authorization"] == "Bearer token-of-the-replica"


def test_openwebui_cve_2026_45339_two_credentials_are_judged_as_one(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    assert gateway.chat("chat", key=NARROW_KEY, x_api_key=KEY).status == 403
    assert gateway.chat("chat", key=KEY, x_api_key=NARROW_KEY).status == 200
    assert gateway.chat("chat", key="hk_wrong", x_api_key=KEY).status == 401


def test_openwebui_cve_2026_45401_a_redirect_is_passed_on_and_never_followed(
    world: World, gateway: Gateway, strict: StrictUpstream
) -> None:
    location = f"http://127.0.0.1:{world.dead_port}/metadata"
    strict.script = Script(b"HTTP/1.1 307 Go\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % location.encode())
    reply = gateway.chat("tried", x_raw="1")
    assert (reply.status, reply.headers["location"]) == (307, location)
    assert len(strict.seen) == 1


def test_vllm_cve_2025_59425_a_key_is_found_by_its_digest_and_never_compared() -> None:
    pools = Pools(on_drained=lambda: None)
    table = pools.table(snapshot(1))
    digest = read_head(b"GET / HTTP/1.1\r\nhost: a\r\nauthorization: Bearer %b\r\n\r\n" % KEY.encode()).digest
    assert authenticate(digest, table=table, now=0.0).id == "everyone"
    assert KEY not in str(table.keys)
    assert digest == hashlib.sha256(KEY.encode()).digest()
    for wrong in (KEY.encode(), hashlib.sha256(KEY.encode()).hexdigest().encode(), None):
        with pytest.raises(Unauthenticated):
            authenticate(wrong, table=table, now=0.0)


def test_vllm_cve_2025_48956_huge_header_is_431_and_never_held(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    before = gateway.rss_bytes()
    for _ in range(20):
        with gateway.wire() as wire:
            wire.send(b"GET /v1/models HTTP/1.1\r\n" + AUTHORIZED + b"x: " + b"a" * 4_000_000)
            assert wire.reply().status == 431
    assert gateway.rss_bytes() - before < 20 * 1024 * 1024
    assert upstream.seen == []


def test_vllm_cve_2025_48944_an_engine_that_dies_of_a_request_does_not_get_it_again(
    gateway: Gateway, strict: StrictUpstream
) -> None:
    assert gateway.chat("tried").status == 200
    strict.script = Script(b"", end="reset")
    reply = gateway.chat("tried", x_raw="1", x_number="1")
    assert reply.status == 502
    assert [dict(seen.headers).get("x-number") for seen in strict.seen].count("1") <= 2
    assert gateway.chat("tried").status == 200


def test_mlflow_2026_09_gateway_ssrf_a_path_never_leaves_its_upstream(
    world: World, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    for path in (f"//127.0.0.1:{world.dead_port}/x", f"/http://127.0.0.1:{world.dead_port}/x", "/@other/x"):
        told = gateway.ask("GET", f"/endpoints/flask{path}").json
        assert (told["target"], told["port"]) == (path, upstream.port)
        assert told["headers"]["host"] == f"127.0.0.1:{upstream.port}"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "path",
    [
        *("/v1/models", "/v1/models/chat", "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank"),
        *("/v1/responses", "/v1/messages", "/v2", "/v2/models/digits", "/v2/models/digits/infer"),
        *("/v2/repository/index", "/endpoints/flask/", "/endpoints/chat/v1/models"),
    ],
)
def test_ray_cve_2026_27482_no_method_and_no_route_goes_without_a_key(
    gateway: Gateway, upstream: ScriptedUpstream, method: str, path: str
) -> None:
    for headers in ({}, {"user_agent": "Mozilla/5.0", "origin": "http://door"}, {"cookie": f"key={KEY}"}):
        with gateway.wire() as wire:
            wire.request(method, path, body=CHAT, **headers)
            assert wire.reply(method=method).status in (401, 405)
    assert upstream.seen == []


def test_ray_cve_2023_48022_it_listens_on_loopback_unless_told_otherwise(
    home: Path, start: Callable[..., Gateway]
) -> None:
    write_snapshot(Home(home).snapshot, snapshot(1))
    gateway = start().listening()
    listening = Path(f"/proc/{gateway.process.pid}/net/tcp").read_text()
    addresses = [line.split()[1] for line in listening.splitlines()[1:] if line.split()[3] == "0A"]
    assert f"0100007F:{gateway.port:04X}" in addresses
    assert f"00000000:{gateway.port:04X}" not in addresses


def test_triton_cve_2025_23310_chunked_bodies_of_tiny_chunks_cost_no_more_than_their_bytes(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    before = gateway.rss_bytes()
    body = b'{"model":"chat","x":"' + b"y" * 300_000 + b'"}'
    with gateway.wire() as wire:
        wire.send(b"POST /v1/chat/completions HTTP/1.1\r\n" + AUTHORIZED + b"transfer-encoding: chunked\r\n\r\n")
        wire.send(b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")
        assert wire.reply().status == 200
    assert bytes(upstream.seen[-1].body) == body
    assert gateway.rss_bytes() - before < 40 * 1024 * 1024


@pytest.mark.parametrize("size", [b"ffffffffffffffff", b"7fffffffffffffff", b"80000000"])
def test_triton_cve_2025_23311_chunked_sizes_allocate_nothing(gateway: Gateway, size: bytes) -> None:
    before = gateway.rss_bytes()
    with gateway.wire() as wire:
        wire.send(b"POST /v1/chat/completions HTTP/1.1\r\n" + AUTHORIZED + b"transfer-encoding: chunked\r\n\r\n")
        wire.send(size + b"\r\n" + b"x" * 1000)
        assert gateway.ask("GET", "/healthz").status == 200
        assert gateway.rss_bytes() - before < 10 * 1024 * 1024


def test_triton_cve_2025_23320_errors_show_no_address_and_bear_the_requests_id(
    world: World, gateway: Gateway, strict: StrictUpstream
) -> None:
    strict.script = Script(b"", end="reset")
    for reply in (gateway.chat("gone", x_request_id="r7"), gateway.chat("tried", x_raw="1", x_request_id="r7")):
        assert reply.status == 502
        assert reply.headers["x-request-id"] == "r7"
        told = reply.body.decode()
        for inside in (
            str(world.dead_port),
            str(strict.port),
            "127.0.0.1",
            "token-of-the-replica",
            "gone-0",
            "tried-0",
        ):
            assert inside not in told


def test_bentoml_cve_2024_9056_starlette_cve_2024_47874_forms_are_never_parsed(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    kind = "multipart/form-data; boundary=" + "-" * 60
    body = ("--" + "-" * 60 + "\r\n").encode() * 20_000
    assert gateway.ask("POST", "/v1/embeddings", body=body, content_type=kind).status == 400
    told = gateway.ask("POST", "/endpoints/flask/form", body=body, content_type=kind).json
    assert told["body"] == body.decode()


def test_starlette_cve_2025_62727_ranges_are_never_parsed(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    ranges = "bytes=" + ",".join(f"{n}-{n}" for n in range(5_000))
    reply = gateway.ask("GET", "/healthz", key=None, range=ranges)
    assert (reply.status, reply.json) == (200, {"status": "ok"})
    assert gateway.ask("GET", "/endpoints/flask/x", range=ranges).json["headers"]["range"] == ranges


@pytest.mark.parametrize(
    "coding", ["gzip, chunked", "chunked, identity", "xchunked", "chunked;q=1", "identity", " chunked,", "\x0bchunked"]
)
def test_gunicorn_cve_2024_1135_te_other_than_chunked_is_refused(
    gateway: Gateway, upstream: ScriptedUpstream, coding: str
) -> None:
    with gateway.wire() as wire:
        head = b"POST /v1/chat/completions HTTP/1.1\r\n" + AUTHORIZED
        wire.send(head + b"transfer-encoding: %b\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n" % coding.encode())
        assert wire.reply().status == 400
        assert wire.ends()
    assert upstream.seen == []


def test_gunicorn_cve_2024_6827_te_and_length_together_are_refused(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    for lines in (
        b"transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: CHUNKED\r\n",
    ):
        with gateway.wire() as wire:
            wire.send(b"POST /v1/chat/completions HTTP/1.1\r\n" + AUTHORIZED + lines + b"\r\n0\r\n\r\n")
            assert wire.reply().status == 400
            assert wire.ends()
    assert upstream.seen == []


def test_h11_cve_2025_43859_a_chunk_ends_with_cr_lf_and_nothing_else(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    for end in (b"xx", b"\n\n", b"\n", b"\r", b"\rx", b"\n\r"):
        with gateway.wire() as wire:
            head = b"POST /v1/chat/completions HTTP/1.1\r\n" + AUTHORIZED + b"transfer-encoding: chunked\r\n\r\n"
            wire.send(head + b"10\r\n" + CHAT + end + b"0\r\n\r\n")
            assert wire.reply().status == 400
            assert wire.ends()
    assert upstream.seen == []


@pytest.mark.parametrize(
    ("package", "least"), [("h11", (0, 16)), ("starlette", (1, 0, 1)), ("httptools", (0, 6, 4)), ("jinja2", (3, 1, 6))]
)
def test_starlette_h11_minimum_versions_are_those_without_known_holes(package: str, least: tuple[int, ...]) -> None:
    assert tuple(int(part) for part in version(package).split(".")[: len(least)]) >= least


@pytest.mark.parametrize(
    "path", ["/metrics", "/debug", "/serveLogs", "/docs", "/openapi.json", "/redoc", "/admin", "/logs"]
)
def test_gpustack_5836_nothing_internal_is_served_at_the_front_door(
    gateway: Gateway, upstream: ScriptedUpstream, path: str
) -> None:
    for key in (None, KEY, ADMIN_KEY):
        assert gateway.ask("GET", path, key=key).status == 404
    assert upstream.seen == []


@pytest.mark.parametrize(
    "path", ["/metrics", "/slots", "/docs", "/openapi.json", "/v1/../metrics", "/v1/%2e%2e/metrics"]
)
def test_gpustack_4303_an_engines_own_paths_are_closed_to_inference_keys(
    gateway: Gateway, upstream: ScriptedUpstream, path: str
) -> None:
    assert gateway.ask("GET", f"/endpoints/chat{path}").status in (400, 404)
    assert upstream.seen == []


def test_gpustack_ed489ca7_x_api_key_is_not_forwarded_to_a_third_party(
    world: World, home: Path, start: Callable[..., Gateway]
) -> None:
    external = ExternalTarget(base_url=f"http://127.0.0.1:{world.other.port}/v1", model="m", api_key="sk-theirs")
    write_snapshot(Home(home).snapshot, snapshot(1, endpoint("away", external=external)))
    gateway = start().listening()
    world.other.seen.clear()
    body = b'{"model":"away"}'
    for headers in (
        {"x_api_key": KEY},
        {"authorization": f"Bearer {KEY}", "x_api_key": KEY},
        {
            "x_api_key": KEY,
            "api_key": KEY,
            "x_auth_token": KEY,
            "cookie": KEY,
            "proxy_authorization": KEY,
            "x_other": KEY,
        },
    ):
        told = gateway.ask("POST", "/v1/chat/completions", key=None, body=body, **headers)
        assert told.status == 200
        assert KEY not in told.body.decode()
        assert told.json["headers"]["authorization"] == "Bearer sk-theirs"
    assert len(world.other.seen) == 3


def test_gpustack_ed489ca7_keys_are_checked_while_control_is_away(
    home: Path, start: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    write_snapshot(Home(home).snapshot, snapshot(1, endpoint("chat", upstream.port)))
    gateway = start().listening()
    assert gateway.chat("chat").status == 200
    assert gateway.chat("chat", key="hk_wrong").status == 401


def test_gpustack_93567001_a_keys_digest_is_one_fast_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[bytes] = []
    sha256 = hashlib.sha256

    def counted(data: bytes) -> object:
        hashed.append(data)
        return sha256(data)

    monkeypatch.setattr(hashlib, "sha256", counted)
    for key in (b"hk_wrong", KEY.encode()):
        read_head(b"GET / HTTP/1.1\r\nhost: a\r\nx-api-key: %b\r\n\r\n" % key)
    assert hashed == [b"hk_wrong", KEY.encode()]
