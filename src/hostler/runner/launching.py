"""What the engine is started with: its arguments, its environment, its program."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from hostler.runner.errors import Failure
from hostler.spec.launch import LaunchSpec

HOST = "127.0.0.1"
MARK = "HOSTLER_REPLICA_DIR"

_KEPT = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "HOSTNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP",
    "LD_LIBRARY_PATH", "LD_PRELOAD", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
})  # fmt: skip
_KEPT_PREFIXES = (
    "LC_", "XDG_", "SSL_CERT_", "CUDA_", "NVIDIA_", "NCCL_", "HIP_", "HSA_", "ROCR_", "ROCM_", "ASCEND_", "ONEAPI_",
    "HF_", "TRANSFORMERS_", "VLLM_", "TORCH", "PYTORCH_", "TRITON_", "OMP_", "KMP_", "MKL_", "OPENBLAS_", "GGML_",
    "LLAMA_", "RAY_",
)  # fmt: skip
_SECRET_ENDINGS = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIALS")


def free_port(host: str = HOST) -> int:
    """A port nobody listens on at this moment. Another may take it before the engine does: starting is retried."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """What an engine may see of the platform's own environment: where things are and how to compute, no secret."""
    return {
        name: value
        for name, value in environment.items()
        if (name in _KEPT or name.startswith(_KEPT_PREFIXES)) and not name.upper().endswith(_SECRET_ENDINGS)
    }


def installer_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What an installation of packages may see: as an engine, and where the package index is.

    Packages run code of their own while they are built.
    """
    index = {name: value for name, value in environment.items() if name.startswith(("PIP_", "UV_"))}
    return inherited(environment) | index


def engine_environment(
    launch: LaunchSpec, *, replica_id: str, folder: Path, places: Mapping[str, str], environment: Mapping[str, str]
) -> dict[str, str]:
    """The engine's environment. `places` maps `host`, `port`, `model_dir` and `python` to what they are."""
    variables = inherited(environment)
    variables.update({name: fill(value, places) for name, value in launch.env.items()})
    variables["HOST"] = places["host"]
    variables["PORT"] = places["port"]
    variables["HOSTLER_REPLICA_ID"] = replica_id
    variables[MARK] = str(folder)
    if launch.token is not None and launch.token_env is not None:
        variables[launch.token_env] = launch.token
    return variables


def fill(text: str, places: Mapping[str, str]) -> str:
    """Put `places` where `{host}`, `{port}`, `{model_dir}` and `{python}` stand; other braces stay."""
    for name, value in places.items():
        text = text.replace("{" + name + "}", value)
    return text


def find_program(name: str, *, path: str | None, folder: Path) -> str:
    """The file to execute for `name`, searched in `path` (as in PATH); a relative one starts in `folder`.

    Raises `Failure` with what to change if there is none or it may not be executed.
    """
    if "/" in name:
        file = folder / name
        if file.is_file() and os.access(file, os.X_OK):
            return str(file)
        if file.is_file():
            raise Failure(
                "ProgramNotExecutable",
                f"{name!r} may not be executed. Run it with its interpreter, for example `command: [sh, {name}]`.",
            )
        raise Failure("ProgramMissing", f"There is no program {name!r}. {_remedy(name)}")
    found = shutil.which(name, path=path)
    if found is None:
        raise Failure("ProgramMissing", f"There is no program {name!r} on PATH. {_remedy(name)}")
    return found


def _remedy(name: str) -> str:
    return (
        f"Install it on this machine, correct `command`, or tell the platform where it is: "
        f"`hostler engine add ENGINE --path /path/to/{Path(name).name}`."
    )


def own_python() -> str:
    """The interpreter that runs this process."""
    return sys.executable
