"""`python -m hostler.runner.model_server`: serves one ONNX or Python model until it is told to end."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvicorn

from hostler.runner.model_server.app import ModelServer
from hostler.runner.model_server.served import ServedModel

TOKEN_VARIABLE = "HOSTLER_REPLICA_TOKEN"  # noqa: S105 - the name of a variable


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m hostler.runner.model_server", allow_abbrev=False)
    parser.add_argument("--name", required=True, help="the model's name in paths")
    parser.add_argument("--kind", choices=("onnx", "python"), required=True)
    parser.add_argument("--dir", type=Path, required=True, help="the model's folder")
    parser.add_argument("--entry", required=True, help="onnx: the file; python: module:Class")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, help="onnx: threads of one call; all cores if left out")
    parser.add_argument("--concurrency", type=int, help="calls at once; what the model says if left out")
    parser.add_argument("--queue", type=int, default=64, help="calls that may wait; further ones get 503")
    return parser.parse_args(arguments)


def load(options: argparse.Namespace) -> ServedModel:
    """The model, loaded. What its code or ONNX Runtime raises goes through."""
    # Only the kind that is asked for is imported: a Python model's environment has no ONNX Runtime.
    if options.kind == "onnx":
        onnx: Any = importlib.import_module("hostler.runner.model_server.onnx_model")
        return onnx.OnnxServed.load(options.dir, entry=options.entry, threads=options.threads)
    python: Any = importlib.import_module("hostler.runner.model_server.python_model")
    return python.PythonServed.load(options.dir, entry=options.entry)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM; 1 if the model cannot be loaded."""
    options = read_arguments(arguments)
    app = ModelServer(
        options.name,
        token=os.environ.get(TOKEN_VARIABLE) or None,
        queue=options.queue,
        concurrency=options.concurrency,
    )
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=options.host,
            port=options.port,
            http="httptools",
            loop="uvloop",
            lifespan="on",
            access_log=False,
            server_header=False,
            log_level="warning",
        )
    )
    failed = threading.Event()

    async def start_loading() -> None:
        loop = asyncio.get_running_loop()

        def load_in_thread() -> None:
            try:
                model = load(options)
            except BaseException:  # noqa: BLE001 - a model's module may raise anything, SystemExit too
                traceback.print_exc()
                failed.set()
                loop.call_soon_threadsafe(setattr, server, "should_exit", True)
            else:
                loop.call_soon_threadsafe(app.install, model)

        threading.Thread(target=load_in_thread, name="load", daemon=True).start()

    app.on_startup = start_loading
    try:
        server.run()
    except SystemExit:
        # uvicorn exits so when it cannot listen, and has said why.
        return 1
    return 1 if failed.is_set() or not server.started else 0


if __name__ == "__main__":
    sys.exit(main())
