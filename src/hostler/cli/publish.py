"""From a source to a version on the platform: fetch, build, push."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hostler.cli.board import Board, transfer_shower
from hostler.cli.session import Session
from hostler.spec.errors import InvalidRequest, NotFound, UnsafeModel
from hostler.spec.fields import format_bytes
from hostler.spec.model import ModelSpec, Source, parse_source
from hostler.spec.names import ModelRef, check_name, parse_model_ref, short_digest, suggest_name
from hostler.spec.version import ModelVersion

if TYPE_CHECKING:
    from hostler.client import Client
    from hostler.registry.fetched import FetchedFolder
    from hostler.spec.resources import PushResult
    from hostler.wiring import LocalRegistry

_SOURCE_PREFIXES = ("hf:", "modelscope:", "s3://", "https://", "http://", "./", "../", "/", "~")
_FILE_ENDINGS = (".gguf", ".onnx", ".safetensors")


@dataclass(frozen=True, slots=True)
class Built:
    """A version in the local catalog; `created` is false if it was there."""

    version: ModelVersion
    created: bool


def read_target(text: str) -> Source | ModelRef:
    """What a person deploys: a source (`hf:`, a path, an address), else a model of the platform, `NAME[@VERSION]`."""
    if text.startswith(_SOURCE_PREFIXES) or "/" in text or text.lower().endswith(_FILE_ENDINGS):
        return local_source(text)
    try:
        return parse_model_ref(text)
    except InvalidRequest:
        if Path(text).exists():
            return local_source(text)
        raise


def local_source(text: str) -> Source:
    """A source with `~` and relative paths read from the working folder. Raises `NotFound` for a missing path."""
    source = parse_source(text)
    if source.path is None:
        return source
    path = Path(source.path).expanduser().absolute()
    if not path.exists():
        raise NotFound(f"{text}: no such file or folder.", hint="Check the path.", param="source", code="no_such_path")
    return Source(path=str(path))


def registry_of(session: Session) -> LocalRegistry:
    """The models made on this machine."""
    from hostler.wiring import local_registry

    return local_registry(session.settings)


def build_source(session: Session, source: Source, *, name: str | None, allow: Collection[str], board: Board) -> Built:
    """Make a version of what a source holds, under the folder's own card or one made from its files."""
    from hostler.registry.build import card_for
    from hostler.registry.sources import fetch

    if name is not None:
        check_name(name)
    task = name or _default_name(source)
    fetched = fetch(source, base=Path.cwd(), workspace=_workspace(session), progress=_shower(board, task, "fetching"))
    with _discarded(fetched):
        own = source.path is not None
        given = name if name is not None or (fetched.place / "model.yaml").is_file() else task
        card = card_for(fetched.place, name=given, own=own, allow=allow)
        if not own:
            card = card.model_copy(update={"source": fetched.source})
        return _store(session, card, fetched, allow=allow, board=board)


def build_card(session: Session, card: ModelSpec, *, base: Path, allow: Collection[str], board: Board) -> Built:
    """Make a version of a card. Relative paths start at `base`, the card's folder.

    A card without a source stands for the files beside it, unless it runs nothing or a command of its own.
    """
    from hostler.registry.sources import fetch

    source = card.source
    if source is None:
        if card.is_external or card.command:
            return _store(session, card, None, allow=allow, board=board)
        source = Source(path=".")
    fetched = fetch(source, base=base, workspace=_workspace(session), progress=_shower(board, card.name, "fetching"))
    with _discarded(fetched):
        return _store(session, card, fetched, allow=allow, board=board)


def push(
    session: Session, client: Client, version: ModelVersion, *, alias: str | None = None, board: Board
) -> PushResult:
    """Send a version of the local catalog to the platform, and forget nothing here. Idempotent."""
    blobs = registry_of(session).blobs
    show = transfer_shower(board, version.model, "pushing")
    return client.models.push(version, blobs.open, alias=alias, progress=show)


def describe_version(version: ModelVersion) -> list[tuple[str, object]]:
    """A version's facts as rows for people, with the engine that would run it and why."""
    facts = version.facts
    return [
        ("model", f"{version.model}@{short_digest(version.digest)}"),
        ("description", version.card.description),
        ("task", version.card.task.value),
        ("engine", engine_choice(version)),
        ("format", facts.format.value),
        ("architecture", facts.architecture),
        ("parameters", format_count(facts.parameters)),
        ("quantization", facts.quantization),
        ("context length", facts.context_length),
        ("files", f"{len(version.files)}, {format_bytes(version.size)}"),
        ("allowed", ", ".join(version.allowed)),
        ("license", version.card.license),
        ("created", version.created_at.isoformat(timespec="seconds")),
    ]


def engine_choice(version: ModelVersion) -> str:
    """The engine that would run a version and why, or why none would."""
    from hostler.engines.catalog import choose

    try:
        engine, reason = choose(version)
    except InvalidRequest as error:
        return f"none: {error.message}"
    return f"{engine.name} ({reason})"


def format_count(number: int | None) -> str | None:
    """A count as people say it: `494M`, `1.5B`."""
    if number is None:
        return None
    for size, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return str(number)


@contextmanager
def _discarded(fetched: FetchedFolder) -> Generator[None]:
    """Tell the notes of a download, and delete it at the end; a refused one is kept, for a retry that allows it."""
    for note in fetched.notes:
        click.echo(f"note: {note}", err=True)
    try:
        yield
    except UnsafeModel:
        if fetched.temporary:
            click.echo(f"note: the download is kept in {fetched.root} for another try; it may be deleted", err=True)
        raise
    except BaseException:
        fetched.discard()
        raise
    fetched.discard()


def _store(
    session: Session, card: ModelSpec, fetched: FetchedFolder | None, *, allow: Collection[str], board: Board
) -> Built:
    from hostler.registry.build import build_version

    registry = registry_of(session)
    version = build_version(
        card,
        fetched,
        registry.blobs,
        allow=allow,
        progress=_shower(board, card.name, "storing"),
        now=datetime.now(UTC).replace(microsecond=0),
    )
    created = registry.cards.put(version)
    if not created:
        version = registry.cards.resolve(ModelRef(version.model, version.digest.removeprefix("sha256:")))
    board.show(card.name, "created" if created else "known", short_digest(version.digest))
    return Built(version, created)


def _shower(board: Board, task: str, phase: str) -> Callable[[int, int | None, str], None]:
    def show(done: int, total: int | None, _what: str) -> None:
        board.show(task, phase, f"of {format_bytes(total)}" if total else "", share=done / total if total else None)

    return show


def _workspace(session: Session) -> Path:
    """Where downloads go on after a cut; on the file system of the blobs, so that they are moved and not copied."""
    return session.home.root / "downloads"


def _default_name(source: Source) -> str:
    _, place = source.place
    last = place.rstrip("/").rpartition("/")[2]
    return suggest_name(last.rpartition(".")[0] if last.lower().endswith(_FILE_ENDINGS) else last)
