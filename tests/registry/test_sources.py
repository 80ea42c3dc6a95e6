from __future__ import annotations

import importlib
import os
from collections.abc import Generator
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import pytest
from botocore.config import Config
from fetching import HALF, WEIGHTS, Stop, Told, content, get, stop_at
from hub_server import Files, Hub, Proxy, address, serving
from model_files import gguf
from moto.server import ThreadedMotoServer

from hostler.registry import retries
from hostler.registry.source_https import check_address, file_name
from hostler.spec.errors import (
    Conflict,
    Forbidden,
    HostlerError,
    InsufficientDisk,
    InvalidRequest,
    NotFound,
    Unavailable,
    UpstreamFailed,
)
from hostler.spec.model import Source


@pytest.fixture
def web() -> Generator[Hub]:
    with serving(Files) as hub:
        hub.files["web"] = {"models/big model.gguf": WEIGHTS, "small.gguf": gguf()}
        yield hub


@pytest.fixture(scope="module")
def moto() -> Generator[str]:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(moto: str, monkeypatch: pytest.MonkeyPatch) -> Generator[Hub]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with serving(Proxy) as hub:
        hub.token = moto
        monkeypatch.setenv("AWS_ENDPOINT_URL", hub.url)
        client = bucket(moto)
        client.create_bucket(Bucket="models")
        for name, data in {"tiny/big.gguf": WEIGHTS, "tiny/sub/config.json": b"{}", "tiny2/x": b"other"}.items():
            client.put_object(Bucket="models", Key=name, Body=data)
        yield hub


def bucket(moto: str) -> Any:
    return boto3.client("s3", endpoint_url=moto, config=Config(s3={"addressing_style": "path"}))


def test_every_object_under_a_prefix_is_fetched(tmp_path: Path, s3: Hub) -> None:
    told = Told()
    fetched = get(
        Source(s3="s3://models/tiny"),
        tmp_path,
        progress=told,
    )
    assert content(fetched) == {"big.gguf": WEIGHTS, "sub/config.json": b"{}"}
    assert told.last == (len(WEIGHTS) + 2, len(WEIGHTS) + 2)
    assert fetched.only is None


def test_one_object_is_a_model_of_one_file(tmp_path: Path, s3: Hub) -> None:
    fetched = get(Source(s3="s3://models/tiny/big.gguf"), tmp_path)
    assert fetched.only == "big.gguf"
    assert fetched.place.read_bytes() == WEIGHTS


def test_a_cut_s3_transfer_asks_only_for_the_rest(tmp_path: Path, s3: Hub) -> None:
    s3.cut_after = HALF
    fetched = get(Source(s3="s3://models/tiny"), tmp_path)
    assert content(fetched)["big.gguf"] == WEIGHTS
    first, second = s3.ranges("big.gguf")
    assert first == "bytes=0-"
    assert second is not None
    assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) <= HALF


def test_what_was_fetched_before_is_not_fetched_again_unless_it_changed(tmp_path: Path, s3: Hub, moto: str) -> None:
    with pytest.raises(Stop):
        get(Source(s3="s3://models/tiny"), tmp_path, progress=stop_at(len(WEIGHTS) + 1))
    s3.requests.clear()
    get(Source(s3="s3://models/tiny"), tmp_path)
    assert s3.ranges("big.gguf") == []
    bucket(moto).put_object(Bucket="models", Key="tiny/big.gguf", Body=b"new")
    bucket(moto).delete_object(Bucket="models", Key="tiny/sub/config.json")
    assert content(get(Source(s3="s3://models/tiny"), tmp_path)) == {"big.gguf": b"new"}


def test_an_object_that_changes_between_two_tries_is_fetched_anew(tmp_path: Path, s3: Hub, moto: str) -> None:
    with pytest.raises(Stop):
        get(Source(s3="s3://models/tiny"), tmp_path, progress=stop_at(HALF))
    changed = os.urandom(len(WEIGHTS))
    bucket(moto).put_object(Bucket="models", Key="tiny/big.gguf", Body=changed)
    assert content(get(Source(s3="s3://models/tiny"), tmp_path))["big.gguf"] == changed


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("s3://models/nothing", NotFound),
        ("s3://nobucket/x", NotFound),
        ("s3://models", InvalidRequest),
        ("s3://", InvalidRequest),
    ],
)
def test_what_s3_has_not_got_is_told(tmp_path: Path, s3: Hub, place: str, error: type[HostlerError]) -> None:
    with pytest.raises(error, match=place):
        get(Source(s3=place), tmp_path)


def test_s3_without_credentials_or_server_is_told(tmp_path: Path, s3: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="AWS_ENDPOINT_URL"):
        get(Source(s3="s3://models/tiny"), tmp_path)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(Forbidden, match="AWS_ACCESS_KEY_ID"):
        get(Source(s3="s3://models/tiny"), tmp_path)


def test_a_file_of_the_web_is_fetched_under_its_name(tmp_path: Path, web: Hub) -> None:
    told = Told()
    fetched = get(
        Source(https=address(web, "models/big model.gguf") + "?sig=secret"),
        tmp_path,
        progress=told,
    )
    assert fetched.only == "big model.gguf"
    assert fetched.place.read_bytes() == WEIGHTS
    assert told.last == (len(WEIGHTS), len(WEIGHTS))


def test_a_cut_web_transfer_asks_only_for_the_rest(tmp_path: Path, web: Hub) -> None:
    web.cut_after = HALF
    fetched = get(Source(https=address(web, "models/big model.gguf")), tmp_path)
    assert fetched.place.read_bytes() == WEIGHTS
    assert web.ranges("big model") == [f"bytes={HALF}-"]


def test_a_web_transfer_that_was_ended_goes_on_unless_the_file_changed(tmp_path: Path, web: Hub) -> None:
    source = Source(https=address(web, "models/big model.gguf"))
    with pytest.raises(Stop):
        get(source, tmp_path, progress=stop_at(HALF))
    web.files["web"]["models/big model.gguf"] = WEIGHTS[::-1]
    assert get(source, tmp_path).place.read_bytes() == WEIGHTS[::-1]
    web.requests.clear()
    assert get(source, tmp_path).place.read_bytes() == WEIGHTS[::-1]
    assert len(web.requests) == 1


def test_without_an_etag_a_web_transfer_starts_anew(tmp_path: Path, web: Hub) -> None:
    web.token = "no-etag"
    web.cut_after = HALF
    assert get(Source(https=address(web, "models/big model.gguf")), tmp_path).place.read_bytes() == WEIGHTS
    assert web.ranges("big model") == []


def test_redirects_are_followed_to_safe_places_only(tmp_path: Path, web: Hub) -> None:
    web.redirects |= {
        "a": "/b",
        "b": "/small.gguf",
        "loop": "/loop",
        "out": "http://example.com/x",
        "file": "file:///x",
    }
    assert get(Source(https=address(web, "a")), tmp_path).place.read_bytes() == gguf()
    with pytest.raises(UpstreamFailed, match="more than 5"):
        get(Source(https=address(web, "loop")), tmp_path)
    for name in ("out", "file"):
        with pytest.raises(InvalidRequest, match="only https"):
            get(Source(https=address(web, name)), tmp_path)


@pytest.mark.parametrize(
    ("url", "loopback", "fine"),
    [
        ("https://example.com/x", False, True),
        ("http://localhost:1/x", True, True),
        ("http://[::1]:1/x", True, True),
        ("http://127.0.0.1/x", False, False),
        ("http://example.com/x", True, False),
        ("http://127.0.0.1.example.com/x", True, False),
        ("ftp://localhost/x", True, False),
        ("https:///x", True, False),
    ],
)
def test_http_is_for_this_machine_alone(url: str, loopback: bool, fine: bool) -> None:
    if fine:
        check_address(url, loopback=loopback)
    else:
        with pytest.raises(InvalidRequest):
            check_address(url, loopback=loopback)


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ('attachment; filename="m.gguf"', "m.gguf"),
        ("attachment; filename*=UTF-8''a%20b.gguf", "a b.gguf"),
        ('attachment; filename="../../etc/x"', "x"),
        ('attachment; filename=".."', "y.onnx"),
        ('attachment; filename="..\\\\x.gguf"', "x.gguf"),
        ("", "y.onnx"),
    ],
)
def test_the_name_of_a_file_is_safe(header: str, name: str) -> None:
    assert file_name("https://h/a/y.onnx?q=/z", {"content-disposition": header}) == name
    assert file_name("https://h/", {}) == "model"


@pytest.mark.parametrize(
    ("status", "error"), [(404, NotFound), (403, Forbidden), (500, UpstreamFailed), (416, UpstreamFailed)]
)
def test_what_a_web_server_refuses_is_told_without_the_signature(
    tmp_path: Path, web: Hub, status: int, error: type[HostlerError]
) -> None:
    web.fail = status
    with pytest.raises(error) as caught:
        get(Source(https=address(web, "small.gguf") + "?sig=secret"), tmp_path)
    assert "secret" not in str(caught.value)
    assert len(web.requests) <= retries.ATTEMPTS


def test_a_web_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9"):
        get(Source(https="http://127.0.0.1:9/m.gguf"), tmp_path)


def test_a_file_larger_than_the_disk_is_not_begun(tmp_path: Path, web: Hub) -> None:
    web.headers["Content-Range"] = f"bytes 0-9/{2**60}"
    with pytest.raises(InsufficientDisk, match="free"):
        get(Source(https=address(web, "small.gguf")), tmp_path)


def test_a_package_that_is_missing_is_told_with_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named {name}", name="boto3")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(InvalidRequest, match=r"pip install 'hostler\[s3\]'"):
        get(Source(s3="s3://a/b"), tmp_path)


def test_two_commands_do_not_fetch_into_one_folder(tmp_path: Path, web: Hub) -> None:
    source = Source(https=address(web, "small.gguf"))

    def again(_done: int, _total: int | None, _what: str) -> None:
        with pytest.raises(Conflict) as caught:
            get(source, tmp_path)
        assert caught.value.code == "fetch_busy"

    get(source, tmp_path, progress=again)
