"""A model that is one file on a web server."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import httpx

from hostler.registry.fetched import FetchedFolder
from hostler.registry.files import Progress
from hostler.registry.hub_files import prune
from hostler.registry.partfile import PartFile, Record
from hostler.registry.retries import retried
from hostler.spec.errors import DeadlineExceeded, Forbidden, InvalidRequest, NotFound, Unavailable, UpstreamFailed
from hostler.spec.model import Source

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0
MAX_REDIRECTS = 5
_NAME = re.compile(r"""filename\*?=(?:UTF-8'')?"?([^";]+)"?""", re.IGNORECASE)
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


def fetch_https(source: Source, *, folder: Path, progress: Progress | None) -> FetchedFolder:
    """Fetch one file into `folder`. A cut transfer goes on where it stopped if the file is still the same."""
    url = source.https or ""
    check_address(url, loopback=_is_loopback(url))
    part = PartFile(folder, url)
    timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    with httpx.Client(timeout=timeout, follow_redirects=False) as client:
        retried(lambda: _fetch(client, url, part, progress))
    record = part.record
    if record is None:
        raise UpstreamFailed(f"{shown(url)}: the download is gone.", hint="Try again.")
    prune(folder, {record.name})
    return FetchedFolder(source=source, root=folder, only=record.name, temporary=True)


def check_address(url: str, *, loopback: bool) -> None:
    """Raise `InvalidRequest` unless `url` is https, or http where both it and the first address are this machine."""
    parts = urlsplit(url)
    plain = parts.scheme == "http" and loopback and _is_loopback(url)
    if not parts.hostname or not (parts.scheme == "https" or plain):
        raise InvalidRequest(
            f"{shown(url)}: only https is fetched, for the bytes could be changed on the way.",
            hint="Use https://, or download the file yourself and give its path.",
            param="source",
            code="insecure_source",
        )


def shown(url: str) -> str:
    """The address without a password and without what may be a signature."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def file_name(url: str, headers: Mapping[str, str]) -> str:
    """A safe name for the file: what the server says, else the last part of the address."""
    match = _NAME.search(headers.get("content-disposition", ""))
    for candidate in (unquote(match[1]) if match else "", unquote(urlsplit(url).path)):
        name = re.split(r"[/\\]", candidate)[-1]
        name = re.sub(r"[\x00-\x1f\x7f]", "", name).strip().lstrip(".")
        if name:
            return name[-200:]
    return "model"


def _fetch(client: httpx.Client, url: str, part: PartFile, progress: Progress | None) -> None:
    known = part.record
    done = part.is_done()
    headers = {"accept-encoding": "identity"}
    if known is not None and known.validator:
        if part.size and part.size == known.size:
            part.finish()
            return
        if done:
            headers["if-none-match"] = known.validator
        elif part.size:
            headers |= {"range": f"bytes={part.size}-", "if-range": known.validator}
    with _web_errors(url), _opened(client, url, headers) as answer:
        if answer.status_code == 304 and done:
            return
        total = _total(answer)
        if not _continues(answer, part, known):
            part.restart(Record(_validator(answer), total, file_name(url, answer.headers)))
        elif total is None and known is not None:
            total = known.size
        _receive(answer, url, part, total, progress)
    part.finish()


def _receive(answer: httpx.Response, url: str, part: PartFile, total: int | None, progress: Progress | None) -> None:
    def advance(count: int) -> None:
        if progress is not None:
            progress(count, total, shown(url))

    part.receive(answer.iter_raw(), total=total, advance=advance)


@contextmanager
def _opened(client: httpx.Client, url: str, headers: Mapping[str, str]) -> Generator[httpx.Response]:
    """The answer at the end of the redirects, of which each is checked before it is followed."""
    loopback = _is_loopback(url)
    first = url
    for _ in range(MAX_REDIRECTS + 1):
        with client.stream("GET", url, headers=headers) as answer:
            if not answer.has_redirect_location:
                _check_status(answer, first)
                yield answer
                return
            url = urljoin(url, answer.headers["location"])
        check_address(url, loopback=loopback)
    raise UpstreamFailed(f"{shown(first)} redirects more than {MAX_REDIRECTS} times.")


def _check_status(answer: httpx.Response, url: str) -> None:
    status = answer.status_code
    if status in (200, 206, 304, 416):
        return
    if status in (404, 410):
        raise NotFound(f"{shown(url)}: there is no such file.", param="source", code="source_not_found")
    if status in (401, 403):
        raise Forbidden(
            f"{shown(url)}: the server refuses it ({status}).",
            hint="The address may need a signature or have expired; download the file yourself and give its path.",
            param="source",
            code="source_forbidden",
        )
    raise UpstreamFailed(f"{shown(url)}: the server answered {status}.", hint="Try again; what came is kept.")


def _continues(answer: httpx.Response, part: PartFile, known: Record | None) -> bool:
    """Whether the body goes on where the part ends. Raises `UpstreamFailed` after forgetting a part that is wrong."""
    if answer.status_code == 206 and known is not None:
        match = _RANGE.fullmatch(answer.headers.get("content-range", ""))
        if match is not None and int(match[1]) == part.size and _validator(answer) == known.validator:
            return True
    if answer.status_code in (206, 304, 416):
        part.drop()
        raise UpstreamFailed("The server's answer does not fit what was fetched before.", hint="Try again.")
    return False


def _total(answer: httpx.Response) -> int | None:
    match = _RANGE.fullmatch(answer.headers.get("content-range", ""))
    if match is not None:
        return int(match[2]) if match[2] != "*" else None
    length = answer.headers.get("content-length", "")
    return int(length) if length.isdigit() else None


def _validator(answer: httpx.Response) -> str:
    """What tells this content from another; empty if the server gives nothing that does (RFC 9110, 13.1.5)."""
    etag = answer.headers.get("etag", "")
    return etag if etag and not etag.startswith("W/") else ""


@contextmanager
def _web_errors(url: str) -> Generator[None]:
    try:
        yield
    except httpx.TimeoutException as error:
        raise DeadlineExceeded(f"{shown(url)}: no answer in time.", hint="Try again; what came is kept.") from error
    except httpx.TransportError as error:
        raise Unavailable(
            f"{shown(url)} cannot be reached: {error}.",
            hint="Check the address and the network. What came is kept.",
            code="source_unreachable",
        ) from error
    except (httpx.InvalidURL, ValueError) as error:
        raise InvalidRequest(f"{shown(url)}: not an address: {error}.", param="source") from error


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
