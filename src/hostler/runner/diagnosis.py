"""Why an engine ended, from its exit code and last lines: a reason for programs, a sentence and a remedy for people."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from typing import NamedTuple


class Diagnosis(NamedTuple):
    """One CamelCase word, and what happened with what to change."""

    reason: str
    message: str


class _Cause(NamedTuple):
    reason: str
    pattern: re.Pattern[str]
    message: str


def _cause(reason: str, pattern: str, message: str) -> _Cause:
    return _Cause(reason, re.compile(pattern, re.IGNORECASE), message)


_CAUSES = (
    _cause(
        "AddressInUse",
        r"address already in use|errno 98\b|couldn't bind (http )?server socket|EADDRINUSE",
        "The engine could not listen: its port was taken. Make sure that it listens on the port it is given ($PORT).",
    ),
    _cause(
        "OutOfGpuMemory",
        r"cuda out of memory|cuda error: out of memory|outofmemoryerror|hip out of memory"
        r"|no available memory for the cache blocks|free memory on device .* less than",
        "The engine ran out of GPU memory. Ask for less context (context_length), use a smaller or quantized model, "
        "or free the GPU.",
    ),
    _cause(
        "OutOfMemory",
        r"std::bad_alloc|cannot allocate memory|memoryerror|failed to allocate|unable to allocate|bfc arena",
        "The engine ran out of memory. Ask for less context (context_length), use a smaller or quantized model, or a "
        "machine with more memory.",
    ),
    _cause(
        "NoGpu",
        r"no cuda gpus are available|found no nvidia driver|cuda driver version is insufficient|no cuda-capable device"
        r"|failed to infer device type|torch not compiled with cuda|libcuda\.so",
        "The engine found no usable GPU. Check `nvidia-smi`, or use an engine that runs on the CPU, such as llamacpp.",
    ),
    _cause(
        "UnknownArgument",
        r"unrecognized arguments?|unknown argument|invalid argument:|no such option|unexpected argument",
        "The engine does not know one of its arguments. Correct `args` of the model card or the deployment.",
    ),
    _cause(
        "MissingModule",
        r"modulenotfounderror|no module named",
        "A Python module is missing. Add its package to the model's requirements file, or install the engine with "
        "`hostler engine install`.",
    ),
    _cause(
        "MissingLibrary",
        r"error while loading shared libraries|cannot open shared object file",
        "A system library is missing; its name is in the log. Install it on this machine.",
    ),
    _cause(
        "UnsupportedModel",
        r"unknown model architecture|unsupported model (architecture|ir version)|not supported for now|"
        r"model architectures \[.*\] are not supported",
        "This build of the engine does not know the model's architecture. Use a newer engine (`hostler engine "
        "install`) or another one (`engine:` in the card).",
    ),
    _cause(
        "BadModelFile",
        r"invalid magic|failed to load model|error loading model|failed to read|invalid_protobuf"
        r"|protobuf parsing failed|safetensorerror|invalid_graph|headertoolarge"
        r"|tensor .* (data is not within|out of bounds)",
        "The engine could not read the model's files. Check that they are complete and of the format that the engine "
        "takes, then push the model again.",
    ),
    _cause(
        "PermissionDenied",
        r"permission denied",
        "The engine was not allowed to open something; the log names it. Correct the permissions.",
    ),
)


def diagnose(exit_code: int | None, lines: Sequence[str]) -> Diagnosis:
    """The most likely cause for an engine that ended by itself with these last lines."""
    how = describe_exit(exit_code)
    text = "\n".join(lines)
    for cause in _CAUSES:
        if cause.pattern.search(text):
            return Diagnosis(cause.reason, f"{cause.message} {how}")
    if exit_code == -signal.SIGKILL:
        return Diagnosis(
            "Killed",
            f"{how} Most often this is the kernel's answer to a machine without free memory: ask for less context "
            "(context_length), use a smaller model, or give the container more memory.",
        )
    if exit_code == -signal.SIGILL:
        return Diagnosis(
            "IllegalInstruction",
            f"{how} The engine was built for another processor. Install a build for this one (`hostler engine add`).",
        )
    if exit_code is not None and exit_code < 0:
        return Diagnosis("Crashed", f"{how} See the log; another version of the engine may help.")
    if exit_code == 0:
        return Diagnosis("Exited", f"{how} It must keep running and listen on its port ($PORT).")
    return Diagnosis("Exited", f"{how} Its last lines say why; all of it: `hostler logs`.")


def describe_exit(exit_code: int | None) -> str:
    """`The engine was killed by SIGKILL.` and the like."""
    if exit_code is None:
        return "The engine ended; how is not known, as its runner had been replaced."
    if exit_code >= 0:
        return f"The engine ended with exit code {exit_code}."
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    return f"The engine was ended by {name}."


def says_address_in_use(lines: Sequence[str]) -> bool:
    """Whether the engine complained that its port was taken, so that another port may help."""
    return bool(_CAUSES[0].pattern.search("\n".join(lines)))
