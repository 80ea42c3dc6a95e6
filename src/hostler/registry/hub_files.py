"""Which files of a hub's repository are worth fetching: one copy of the weights, and none that runs code."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hostler.registry.files import is_ignored
from hostler.spec.errors import InvalidRequest, NotFound
from hostler.spec.fields import format_bytes
from hostler.spec.version import MAX_FILES, check_file_path

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
_OTHER_WEIGHTS = (*_PICKLES, ".h5", ".msgpack", ".ot", ".tflite", ".onnx", ".onnx_data", ".mlmodel", ".gguf")
_OTHER_FOLDERS = frozenset({"onnx", "openvino", "coreml", "original", "metal"})
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_PREFERRED = ("q4_k_m", "q4_k_s", "q4_0", "q5_k_m", "q5_k_s", "q8_0", "q6_k", "q4_k_xl", "f16", "bf16", "f32")
"""Quantizations in the order they are taken when a repository has many: small, and close to the original."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The files to fetch with their bytes, and what is said of the others."""

    sizes: Mapping[str, int]
    notes: tuple[str, ...]

    @property
    def total_bytes(self) -> int:
        return sum(self.sizes.values())


def choose(sizes: Mapping[str, int], *, repository: str) -> Choice:
    """What to take of a repository with these files. Raises `NotFound` if it has none, `InvalidRequest` for names
    that leave the folder."""
    for path in sizes:
        check_file_path(path)
    kept = {path for path in sizes if not _ignored(path)}
    if not kept:
        raise NotFound(f"{repository}: the repository has no files.", param="source", code="no_files")
    if len(kept) > MAX_FILES:
        raise InvalidRequest(f"{repository}: more than {MAX_FILES:,} files.", param="source")
    notes: list[str] = []
    if any(path.endswith(".safetensors") and "/" not in path for path in kept):
        _drop(kept, sizes, _other_copies(kept), notes, "beside the safetensors")
    elif any(path.endswith(".gguf") for path in kept):
        _drop(kept, sizes, {path for path in kept if path.endswith(_PICKLES)}, notes, "beside the GGUF")
        chosen = _one_gguf(kept)
        _drop(kept, sizes, {path for path in kept if path.endswith(".gguf")} - chosen, notes, "other quantizations")
    elif any(path.endswith(".onnx") for path in kept):
        _drop(kept, sizes, {path for path in kept if path.endswith(_PICKLES)}, notes, "beside the ONNX model")
    return Choice({path: sizes[path] for path in sorted(kept)}, tuple(notes))


def prune(folder: Path, keep: Iterable[str]) -> None:
    """Delete what an earlier fetch left in `folder` and the source has no more; its hidden records stay."""
    wanted = set(keep)
    for path in sorted(folder.rglob("*"), reverse=True):
        relative = path.relative_to(folder).as_posix()
        if relative.split("/")[0].startswith("."):
            continue
        if path.is_symlink() or (path.is_file() and relative not in wanted):
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            shutil.rmtree(path)


def _ignored(path: str) -> bool:
    *folders, name = PurePosixPath(path).parts
    return is_ignored(name, folder=False) or any(is_ignored(part, folder=True) for part in folders)


def _other_copies(kept: set[str]) -> set[str]:
    """The same weights in another format, and folders that hold nothing else."""
    copies = {path for path in kept if path.endswith(_OTHER_WEIGHTS)}
    copies |= {path for path in kept if "/" in path and path.split("/")[0] in _OTHER_FOLDERS}
    if "model.safetensors.index.json" in kept:
        copies |= {path for path in kept if path.startswith("consolidated") and path.endswith(".safetensors")}
    return copies


def _one_gguf(kept: set[str]) -> set[str]:
    """The files of one quantization: the first of the preferred ones, else the first by name."""
    groups: dict[str, set[str]] = {}
    for path in sorted(kept):
        if path.endswith(".gguf") and not PurePosixPath(path).name.lower().startswith("mmproj"):
            groups.setdefault(_SHARD.sub("", path), set()).add(path)
    if len(groups) < 2:
        return {path for path in kept if path.endswith(".gguf")}
    for wanted in _PREFERRED:
        for stem, paths in groups.items():
            if re.search(rf"(^|[^a-z0-9]){wanted}($|[^a-z0-9_])", stem.lower().removesuffix(".gguf")):
                return paths
    return next(iter(groups.values()))


def _drop(kept: set[str], sizes: Mapping[str, int], left_out: set[str], notes: list[str], why: str) -> None:
    if left_out:
        kept -= left_out
        first = min(left_out)
        more = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
        size = format_bytes(sum(sizes[path] for path in left_out))
        notes.append(f"Left out {first}{more} ({size}): {why}.")
