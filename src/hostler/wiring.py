"""The only place that builds objects: the control process, and the local registry for commands."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hostler.ports import listening_socket
from hostler.process_files import write_process_file
from hostler.registry.blobs import BlobStore
from hostler.registry.catalog import Catalog
from hostler.settings import Settings, load_settings
from hostler.spec.errors import HostlerError
from hostler.telemetry import configure_logging

if TYPE_CHECKING:
    from hostler.backends.local import LocalBackend
    from hostler.control.context import Context
    from hostler.control.leadership import Leadership
    from hostler.store.database import Database

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


async def build_context(settings: Settings, database: Database, *, may_act: Callable[[], bool]) -> Context:
    """The rooms of one platform, put together. `may_act` says whether this process leads."""
    from hostler.control.context import Context
    from hostler.control.externals import ExternalModels
    from hostler.control.feed import Feed
    from hostler.control.fleets import Fleets
    from hostler.control.hints import Hints
    from hostler.control.ledger import Ledger
    from hostler.control.loop import touch_deployments
    from hostler.store.secrets import SecretFiles

    paths = settings.paths
    registry = local_registry(settings)
    catalog = Catalog(paths.models, registry.blobs)
    hints, demand = Hints(), Hints()
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
        may_act=may_act,
    )


async def serve_control(settings: Settings) -> None:
    """Run the API, the console and the loops until SIGTERM or SIGINT.

    Of several it is the one that holds the lease; until then it stands by. Raises `PortTaken` if the API's port is
    taken, `Conflict` if another control works on this home and only one may, `LeaseLost` if another took over.
    """
    from hostler.control.leadership import Leadership
    from hostler.store.database import Database

    paths = settings.paths
    paths.create()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        database = Database(paths.database, migrates=False)
        stack.callback(database.close)
        leadership = Leadership(database)
        stack.push_async_callback(leadership.release)
        if not await _lead(leadership, stopping, waits=settings.controls > 1):
            return
        leading = asyncio.create_task(leadership.keep())
        acting = asyncio.create_task(_act(settings, database, leadership, stopping))
        await asyncio.wait({leading, acting}, return_when=asyncio.FIRST_COMPLETED)
        stopping.set()
        lost = leading.exception() if leading.done() else None
        leading.cancel()
        await acting
        if lost is not None:
            raise lost


async def _act(settings: Settings, database: Database, leadership: Leadership, stopping: asyncio.Event) -> None:
    """Be the control plane until `stopping` is set."""
    import uvicorn

    from hostler.backends.backend import Prepares
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
    await asyncio.to_thread(database.migrate)
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(listening_socket(settings.host, settings.api_port, flag="--api-port"))
        context = await build_context(settings, database, may_act=lambda: leadership.valid)
        if isinstance(context.backend, Prepares):
            context.backend.prepare()
            stack.callback(context.backend.close)
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


async def _lead(leadership: Leadership, stopping: asyncio.Event, *, waits: bool) -> bool:
    """Whether this process came to lead before it was told to stop."""
    if waits:
        # Whoever stands by has everything loaded by the time it must act.
        await asyncio.to_thread(_load_rooms)
    leading = asyncio.create_task(leadership.acquire(waits=waits))
    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait({leading, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if leading.done():
        await leading
        return True
    leading.cancel()
    return False


def _load_rooms() -> None:
    for module in ("uvicorn", "hostler.web.app", "hostler.control.loop", "hostler.backends.local"):
        importlib.import_module(module)


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
