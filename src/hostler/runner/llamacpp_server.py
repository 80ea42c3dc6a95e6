"""llama.cpp's own HTTP server inside a Python process, by `xllamacpp`: what the engine `llamacpp` runs.

The API key comes in the variable `LLAMA_API_KEY`, never as an argument. Every signal keeps its default action, so
SIGTERM ends the process at once, also while a model loads.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

GGUF_MAGIC = b"GGUF"


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, named as `llama-server` names them."""
    parser = argparse.ArgumentParser(prog="python -m hostler.runner.llamacpp_server", allow_abbrev=False)
    parser.add_argument("--model", "-m", type=Path, required=True, help="the GGUF file; the first if there are several")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--alias", "-a", help="the model's name in answers")
    parser.add_argument(
        "--ctx-size", "--ctx", "-c", type=int, default=0, help="tokens for all slots; 0: the model's own"
    )
    parser.add_argument("--parallel", "-np", type=int, default=1, help="requests worked on at once")
    parser.add_argument("--threads", "-t", type=int, default=-1)
    parser.add_argument("--threads-batch", "-tb", type=int, default=-1)
    parser.add_argument("--threads-http", type=int, default=-1)
    parser.add_argument("--batch-size", "-b", type=int)
    parser.add_argument("--ubatch-size", "-ub", type=int)
    parser.add_argument("--n-gpu-layers", "--gpu-layers", "-ngl", type=int)
    parser.add_argument("--kv-unified", action="store_true", help="all slots share one context")
    parser.add_argument("--embeddings", "--embedding", action="store_true")
    parser.add_argument("--reranking", "--rerank", action="store_true")
    parser.add_argument("--pooling", choices=("none", "mean", "cls", "last", "rank"))
    parser.add_argument("--chat-template")
    parser.add_argument("--mmproj", type=Path)
    parser.add_argument("--no-warmup", action="store_true")
    parser.add_argument("--metrics", action="store_true")
    parser.add_argument("--no-mmap", action="store_true")
    return parser.parse_args(arguments)


def check_file(path: Path) -> str | None:
    """Why `path` cannot be a GGUF model; None if it may be."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        return f"{path}: {error.strerror}"
    if magic != GGUF_MAGIC:
        return f"{path}: not a GGUF file: invalid magic {magic!r}, expected {GGUF_MAGIC!r}"
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal ends the process; 1 if the model cannot be loaded."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    options = read_arguments(arguments)
    problem = check_file(options.model)
    if problem is not None:
        sys.stderr.write(problem + "\n")
        return 1
    try:
        xllamacpp: Any = importlib.import_module("xllamacpp")
    except ImportError as error:
        sys.stderr.write(f"{error}. Install it: pip install 'hostler[llamacpp]'\n")
        return 1
    try:
        server = xllamacpp.Server(parameters(xllamacpp, options, api_key=os.environ.get("LLAMA_API_KEY")))
    except RuntimeError as error:
        # llama.cpp has said why in the lines before.
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stderr.write(f"listening on {server.listening_address}\n")
    sys.stderr.flush()
    while True:
        signal.pause()


def parameters(xllamacpp: Any, options: argparse.Namespace, *, api_key: str | None) -> Any:
    """llama.cpp's parameters. Its web page and its slots stay off: they show what others ask."""
    params = xllamacpp.CommonParams()
    params.model.path = str(options.model)
    params.hostnames = [options.host]
    params.port = options.port
    params.model_alias = {options.alias or options.model.stem}
    params.api_keys = [api_key] if api_key else []
    params.n_ctx = options.ctx_size
    params.n_parallel = options.parallel
    params.kv_unified = options.kv_unified
    params.n_threads_http = options.threads_http
    params.cpuparams.n_threads = options.threads
    params.cpuparams_batch.n_threads = options.threads_batch if options.threads_batch > 0 else options.threads
    params.embedding = options.embeddings or options.reranking
    params.warmup = not options.no_warmup
    params.endpoint_metrics = options.metrics
    params.endpoint_slots = False
    params.ui = False
    pooling = "rank" if options.reranking else options.pooling
    if pooling is not None:
        params.pooling_type = getattr(xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{pooling.upper()}")
    if options.no_mmap:
        params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    if options.mmproj is not None:
        params.mmproj.path = str(options.mmproj)
    for name, value in (
        ("n_batch", options.batch_size),
        ("n_ubatch", options.ubatch_size),
        ("n_gpu_layers", options.n_gpu_layers),
        ("chat_template", options.chat_template),
    ):
        if value is not None:
            setattr(params, name, value)
    return params


if __name__ == "__main__":
    sys.exit(main())
