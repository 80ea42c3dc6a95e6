"""The only place that builds objects: the control process, and the local registry for commands."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Generator, Iterable
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hostler.ports import listening_socket
from hostler.process_files import write_process_file
from hostler.registry.blobs import BlobStore
from hostler.registry.catalog import Catalog
from hostler.settings import Settings, load_settings
from hostler.spec.errors import Conflict, HostlerError
from hostler.telemetry import configure_logging

if TYPE_CHECKING:
    from hostler.backends.local import LocalBackend
    from hostler.control.context import Context

CONTROL = "control"
GRACEFUL_SHUTDOWN_S = 3

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LocalRegistry:
    """The models made on this machine and not pushed (`cards`), over the machine's blobs."""

    blobs: BlobStore
    cards: Catalog


def local_registry(settings: Settings) -> LocalRegistry:
    """The registry that commands work on without a platform."""
    paths = settings.paths
    paths.create()
    blobs = BlobStore(paths.models)
    return LocalRegistry(blobs, Catalog(paths.cards, blobs))


def local_backend(settings: Settings) -> LocalBackend:
    """The backend that runs replicas as processes of this machine."""
    from hostler.backends.local import LocalBackend

    return LocalBackend(settings.paths)


def feed_token(path: Path) -> str:
    """The secret gateways show to control; made at the first call, mode 0600."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        pass
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(32))
    temporary.replace(path)
    return path.read_text().strip()


async def build_context(settings: Settings) -> Context:
    """The rooms of one platform, put together. Opens the database and makes the first key if there is none."""
    from hostler.control.context import Context
    from hostler.control.externals import ExternalModels
    from hostler.control.feed import Feed
    from hostler.control.fleets import Fleets
    from hostler.control.hints import Hints
    from hostler.control.ledger import Ledger
    from hostler.control.loop import touch_deployments
    from hostler.store.database import Database
    from hostler.store.secrets import SecretFiles

    paths = settings.paths
    registry = local_registry(settings)
    catalog = Catalog(paths.models, registry.blobs)
    hints, demand = Hints(), Hints()
    database = Database(paths.database)
    ledger = Ledger(database, kept_days=settings.usage_kept_days, now=time.time)

    def on_report(replica_ids: Iterable[str]) -> None:
        touch_deployments(hints, replica_ids)

    return Context(
        settings=settings,
        database=database,
        catalog=catalog,
        cards=registry.cards,
        externals=ExternalModels(catalog),
        blobs=registry.blobs,
        secrets=SecretFiles(paths.secrets),
        backend=local_backend(settings),
        feed=Feed(
            token=feed_token(paths.feed_token),
            now=time.monotonic,
            on_report=on_report,
            ingest=ledger.take,
            on_journal=ledger.heard,
            on_queued=demand.touch,
        ),
        ledger=ledger,
        hints=hints,
        key_hints=Hints(),
        demand=demand,
        fleets=Fleets(),
        now=time.time,
        started_at=time.time(),
    )


async def serve_control(settings: Settings) -> None:
    """Run the API, the console and the loops until SIGTERM or SIGINT.

    Raises `PortTaken` if the API's port is taken, `Conflict` if another control works on this home.
    """
    import uvicorn

    from hostler.control.autoscaler import Autoscaler
    from hostler.control.deployments import Deployments
    from hostler.control.engines import Engines
    from hostler.control.hints import listen_for_hints
    from hostler.control.keys import Keys
    from hostler.control.loop import Reconciler
    from hostler.control.metrics import Metrics
    from hostler.control.models import Models
    from hostler.control.platform import Platform
    from hostler.control.publisher import Publisher
    from hostler.control.usage import Usage
    from hostler.control.verbs import Verbs
    from hostler.web.app import create_app
    from hostler.web.protocol import BoundedProtocol

    paths = settings.paths
    paths.create()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        stack.enter_context(_only_control(paths.run / "control.lock"))
        listener = stack.enter_context(listening_socket(settings.host, settings.api_port, flag="--api-port"))
        context = await build_context(settings)
        stack.callback(context.database.close)
        publisher = Publisher(context)
        reconciler = Reconciler(context, publisher)
        keys = Keys(context)
        if keys.ensure_first(paths.credentials):
            logger.info("made the first admin key; it is in %s", paths.credentials)
        verbs = Verbs(
            context=context,
            models=Models(context),
            deployments=Deployments(context, reconciler),
            keys=keys,
            engines=Engines(context),
            platform=Platform(context, reconciler, lambda: publisher.version),
            usage=Usage(context),
            metrics=Metrics(context),
        )
        config = uvicorn.Config(
            create_app(verbs),
            http=BoundedProtocol,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_S,
        )
        server = uvicorn.Server(config)
        hints_transport = await listen_for_hints(paths.hints_socket, context.hints)
        stack.callback(hints_transport.close)
        await context.feed.listen(settings.feed or paths.feed_socket)
        stack.push_async_callback(context.feed.close)
        loops = asyncio.gather(reconciler.run(), publisher.run(), Autoscaler(context).run(), context.ledger.run())
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        stopped = asyncio.create_task(stopping.wait())
        first_round = asyncio.create_task(reconciler.first_round_done.wait())
        await asyncio.wait({first_round, stopped, serving}, return_when=asyncio.FIRST_COMPLETED)
        if first_round.done():
            write_process_file(paths.run / f"{CONTROL}.json", host=settings.host, port=settings.api_port)
        await asyncio.wait({stopped, serving}, return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        for task in (loops, stopped, first_round):
            task.cancel()
        await asyncio.gather(loops, stopped, first_round, return_exceptions=True)
        await serving


@contextmanager
def _only_control(path: Path) -> Generator[None]:
    """Hold the lock that makes this the only control of its home."""
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"Another Hostler works on {path.parent.parent}.",
                hint="End it with `hostler down`, or use another --home.",
            ) from None
        yield


def main() -> int:
    """The control process. Exit codes as everywhere; an error is one line on stderr."""
    import uvloop

    try:
        settings = load_settings()
        configure_logging(settings.log_level)
        uvloop.run(serve_control(settings))
    except HostlerError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
