"""`hostler demo`: the main job on real models, from two cards to measured endpoints."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import hostler
from hostler.cli.answers import answer_text, chunk_text
from hostler.cli.bench import HEADERS, plan_of, row_of, run_shown, tell_errors
from hostler.cli.board import open_board
from hostler.cli.hosting import WATCH_PAUSE_S, ended_by_signals, platform_up
from hostler.cli.output import print_table
from hostler.cli.publish import build_card, push
from hostler.cli.session import Session, duration_s, home_option
from hostler.cli.snippets import curl_line
from hostler.cli.waiting import AWAY_S, wait_until_all_ready
from hostler.settings import load_settings
from hostler.spec.deployment import DeploymentSpec, Resources
from hostler.spec.errors import Conflict, HostlerError, NotFound, Unavailable
from hostler.spec.names import short_digest

if TYPE_CHECKING:
    from hostler.bench import LoadResult
    from hostler.client import Client, Inference
    from hostler.spec.model import ModelSpec

MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant."},
    {
        "role": "user",
        "content": "Please tell me how many gold medals the Chinese team won in total at the 2008 Beijing Olympics?",
    },
]
FOLLOW_UP = [{"role": "user", "content": "Where were the 2008 Olympics held?"}]
ONE_CORE = Resources(cpu=1)
"""What these small models need; threads of theirs on every core would wait for the load that runs beside them."""
CARDS = ("chat/gguf/model.yaml", "digits/model/model.yaml")
HELD_OUT = "digits/heldout.json"
BATCH = 50
CONNECTIONS = (1, 10)
DEPLOY_TIMEOUT_S = 120.0
LOAD_S = 10.0
SHORT_LOAD_S = 3.0


class ExampleFailed(HostlerError):
    """An example of the demo did not do what it shows."""

    default_code = "example_failed"


@dataclass(frozen=True, slots=True)
class Deployed:
    """The endpoints of the two examples."""

    chat: str
    digits: str


@click.command()
@click.option("--keep/--no-keep", default=None, help="Stay up at the end; the default at a terminal.")
@click.option("--examples", type=click.Path(path_type=Path, file_okay=False), help="Folder of the example models.")
@click.option("--duration", metavar="TIME", help="Counted time of each load test; 10s at a terminal, else 3s.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the front door.")
@click.option("--api-port", type=click.IntRange(1, 65535), help="Port of the control API.")
@home_option
def demo(
    keep: bool | None,
    examples: Path | None,
    duration: str | None,
    port: int | None,
    api_port: int | None,
    home: Path | None,
) -> None:
    """Deploy a chat model and a classifier, call both, and measure them.

    Works in a temporary home unless --home is given. At a terminal it then stays up until Ctrl-C; elsewhere it stops
    everything and exits with 0, or with 1 if an example failed.
    """
    from hostler.supervisor import running

    folder = find_examples(examples)
    staying = sys.stdout.isatty() if keep is None else keep
    load_s = duration_s(duration) if duration else LOAD_S if sys.stdout.isatty() else SHORT_LOAD_S
    with ended_by_signals(), _home(home) as root:
        # Another platform's address and key, set for other commands, are not meant for this one.
        settings = replace(load_settings(home=root, port=port, api_port=api_port), url=None, api_key=None)
        session = Session(settings)
        if running(settings) is not None:
            raise Conflict(f"A platform is up in {root} already.", hint="Leave out --home, or end it: `hostler down`.")
        _heading("Starting the platform")
        with platform_up(session), session.client() as client, session.inference() as door:
            with _examples():
                _heading("Creating, pushing and deploying two models")
                deployed = _deploy(session, client, folder)
                _heading("Calling them")
                _chat(door, deployed.chat)
                _list(door, deployed)
                _classify(door, deployed.digits, folder / HELD_OUT)
                _heading(f"Load test: streamed chats, {load_s:g} s each")
                _measure(session, door, deployed.chat, load_s=load_s)
            if staying:
                _heading("It stays up")
                _tell(session, door, deployed)
                _stay(client)


def find_examples(given: Path | None) -> Path:
    """The folder of the example models: as given, of the working folder, or of the checkout this code is in."""
    checkout = Path(hostler.__file__).resolve().parents[2]
    candidates = [given] if given is not None else [Path.cwd() / "examples", checkout / "examples"]
    for folder in candidates:
        if all((folder / file).is_file() for file in (*CARDS, HELD_OUT)):
            return folder.absolute()
    raise NotFound(
        f"The example models are not in {' or '.join(str(folder) for folder in candidates)}.",
        hint="Run it in a checkout of Hostler's repository, or say where they are with --examples.",
        param="examples",
    )


@contextmanager
def _home(given: Path | None) -> Generator[Path]:
    """The home to work in; a temporary one is deleted at the end."""
    if given is not None:
        yield given
        return
    folder = Path(tempfile.mkdtemp(prefix="hostler-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _examples() -> Generator[None]:
    """Whatever refuses an example, the example has failed."""
    try:
        yield
    except ExampleFailed:
        raise
    except HostlerError as error:
        raise ExampleFailed(error.message, hint=error.hint, code=error.code) from error


def _deploy(session: Session, client: Client, folder: Path) -> Deployed:
    from hostler.registry.build import read_card

    cards: list[ModelSpec] = []
    with open_board() as board:
        for place in CARDS:
            path = folder / place
            card = read_card(path)
            built = build_card(session, card, base=path.parent, allow=(), board=board)
            push(session, client, built.version, board=board)
            reference = f"{card.name}@{short_digest(built.version.digest)}"
            client.deployments.apply(DeploymentSpec(name=card.name, model=reference, resources=ONE_CORE))
            cards.append(card)
        wait_until_all_ready(client, dict.fromkeys((card.name for card in cards), DEPLOY_TIMEOUT_S), board=board)
    return Deployed(chat=cards[0].name, digits=cards[1].name)


def _chat(door: Inference, model: str) -> None:
    question = MESSAGES[-1]["content"]
    click.echo(f"POST /v1/chat/completions  {question}")
    text = answer_text(door.chat(model, MESSAGES))
    if not text or not text.strip():
        raise ExampleFailed(f"{model} gave an empty answer.")
    click.echo(f"  {text.strip()}")
    click.echo(f"streamed                   {FOLLOW_UP[-1]['content']}")
    started = time.perf_counter()
    first_s: float | None = None
    pieces = 0
    click.echo("  ", nl=False)
    with door.chat_stream(model, FOLLOW_UP) as chunks:
        for chunk in chunks:
            if piece := chunk_text(chunk):
                first_s = first_s or time.perf_counter() - started
                pieces += 1
                click.echo(piece, nl=False)
    click.echo()
    if first_s is None:
        raise ExampleFailed(f"{model} streamed an empty answer.")
    click.echo(f"  {pieces} chunks, the first after {1000 * first_s:.0f} ms")


def _list(door: Inference, deployed: Deployed) -> None:
    names = sorted(str(model["id"]) for model in door.models())
    click.echo(f"GET /v1/models             {', '.join(names)}")
    if missing := {deployed.chat, deployed.digits} - set(names):
        raise ExampleFailed(f"GET /v1/models does not list {', '.join(sorted(missing))}.")


def _classify(door: Inference, model: str, held_out: Path) -> None:
    data: dict[str, list[Any]] = json.loads(held_out.read_text("utf-8"))
    images, labels = data["images"], data["labels"]
    started = time.perf_counter()
    found: list[int] = []
    for start in range(0, len(images), BATCH):
        found += classify(door, model, images[start : start + BATCH])
    took_s = time.perf_counter() - started
    if len(found) != len(labels):
        raise ExampleFailed(f"{model} gave {len(found)} labels for {len(labels)} images.")
    right = sum(one == label for one, label in zip(found, labels, strict=True))
    click.echo(f"POST /v2/models/{model}/infer  {len(images)} held-out images of handwritten digits in {took_s:.2f} s")
    click.echo(f"  accuracy {right / len(labels):.2%} ({right} of {len(labels)} right)")


def classify(door: Inference, model: str, images: Sequence[Sequence[float]]) -> list[int]:
    """The labels of some images, in one request of the Open Inference Protocol."""
    tensor = {
        "name": "image",
        "datatype": "FP32",
        "shape": [len(images), len(images[0])],
        "data": [number for image in images for number in image],
    }
    answer = door.infer(model, {"inputs": [tensor]})
    labels = next((output for output in answer["outputs"] if output["datatype"] == "INT64"), None)
    if labels is None:
        raise ExampleFailed(f"{model} answered no labels.")
    return [int(label) for label in labels["data"]]


def _measure(session: Session, door: Inference, model: str, *, load_s: float) -> None:
    results: list[LoadResult] = []
    with open_board() as board:
        for count in CONNECTIONS:
            plan = plan_of(
                f"{door.url}/v1/chat/completions",
                session.api_key(),
                {"model": model, "messages": MESSAGES},
                connections=count,
                duration_s=load_s,
                stream=True,
            )
            results.append(run_shown(plan, board))
    print_table(HEADERS, [row_of(result) for result in results], empty="")
    tell_errors(results)


def _tell(session: Session, door: Inference, deployed: Deployed) -> None:
    body = {"model": deployed.chat, "messages": MESSAGES[-1:]}
    click.echo(f"front door   {door.url}/v1")
    click.echo(f"control      {session.api_url}")
    click.echo(f"key          {session.api_key()}")
    click.echo(curl_line(door.url, session.api_key(), "/v1/chat/completions", body))
    click.echo("\nIn another terminal:")
    if shutil.which("hostler") is None:
        click.echo(f"  . {Path(sys.executable).with_name('activate')}")
    click.echo(f"  export HOSTLER_HOME={session.home.root}")
    for line in (
        f"hostler chat {deployed.chat}",
        f"hostler describe {deployed.digits}",
        f"hostler scale {deployed.digits} 2",
        "hostler status",
    ):
        click.echo(f"  {line}")
    click.echo("\nCtrl-C stops it.")


def _stay(client: Client) -> None:
    """Until a signal, or until somebody takes the platform down."""
    seen_at = time.monotonic()
    try:
        while time.monotonic() - seen_at < AWAY_S:
            with suppress(Unavailable):
                client.healthy()
                seen_at = time.monotonic()
            time.sleep(2 * WATCH_PAUSE_S)
    except KeyboardInterrupt:
        click.echo("\nStopping.", err=True)
        return
    click.echo("The platform was taken down.", err=True)


def _heading(text: str) -> None:
    click.echo(click.style(f"\n{text}", bold=True))
