"""The files of a model: which of a folder's belong to it, and where they really are."""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hostler.spec.errors import InvalidRequest, NotFound
from hostler.spec.version import MAX_FILES, check_file_path

Progress = Callable[[int, int | None, str], None]
"""Called with bytes done, bytes in all (None if unknown) and what is being done."""

CARD_FILE = "model.yaml"
"""The card of a folder, at its top; it is no file of the model."""

IGNORED_FOLDERS = frozenset(
    {".git", ".hg", ".svn", "__pycache__", ".cache", ".huggingface", ".ipynb_checkpoints", ".venv", ".idea", ".vscode"}
)
IGNORED_FILES = (".DS_Store", "Thumbs.db", ".gitattributes", ".gitignore", ".gitkeep", ".msc", ".mdl", ".mv")
IGNORED_ENDINGS = ("*.part", "*.incomplete", "*.swp", "*~", "._*")
MAX_DEPTH = 32


class Entry(NamedTuple):
    """One file: its path inside the model (with `/`), and the file that holds its bytes."""

    path: str
    real: Path


@dataclass(frozen=True, slots=True)
class Finding:
    """What makes a file unsafe. `allowance` is the word for `--allow`; None if nothing allows it."""

    path: str
    problem: str
    allowance: str | None


@dataclass(slots=True)
class Collected:
    """The files of a folder, sorted by path, and what is wrong with its links and special files."""

    entries: list[Entry] = field(default_factory=list[Entry])
    findings: list[Finding] = field(default_factory=list[Finding])


def collect(folder: Path, *, follow_links: bool = False) -> Collected:
    """Every file of `folder` that belongs to a model: not its card, not what version control and caches leave.

    A symbolic link is a finding, and its target is taken only with `follow_links` and only if it stays inside.
    Raises `NotFound` if there is no such folder, `InvalidRequest` for too many files or too deep a tree.
    """
    root = folder.resolve()
    if not root.is_dir():
        raise NotFound(f"{folder}: no such folder.", param="source", code="source_not_found")
    collected = Collected()
    for entry in _walk(root, root, "", (root,), follow_links, collected.findings):
        if entry.path == CARD_FILE:
            continue
        check_file_path(entry.path)
        collected.entries.append(entry)
        if len(collected.entries) > MAX_FILES:
            raise InvalidRequest(
                f"{folder}: more than {MAX_FILES:,} files.", hint="Give the folder of one model.", param="source"
            )
    collected.entries.sort()
    collected.findings.sort(key=lambda finding: finding.path)
    return collected


def is_ignored(name: str, *, folder: bool) -> bool:
    """Whether a name inside a model's folder is left by version control, caches or unfinished downloads."""
    if folder:
        return name in IGNORED_FOLDERS or name.startswith("._____")
    return name in IGNORED_FILES or any(fnmatch.fnmatchcase(name, pattern) for pattern in IGNORED_ENDINGS)


def _walk(
    root: Path, folder: Path, prefix: str, above: tuple[Path, ...], follow: bool, findings: list[Finding]
) -> Iterator[Entry]:
    if len(above) > MAX_DEPTH:
        raise InvalidRequest(f"{prefix}: folders nested more than {MAX_DEPTH} deep.", param="source")
    with os.scandir(folder) as items:
        ordered = sorted(items, key=lambda item: item.name)
    for item in ordered:
        path = prefix + item.name
        real = Path(item.path)
        if item.is_symlink():
            target = _link_target(root, real, path, findings)
            if target is None or not follow:
                continue
            real = target
        mode = real.lstat().st_mode
        if is_ignored(item.name, folder=stat.S_ISDIR(mode)):
            continue
        if stat.S_ISDIR(mode):
            if real in above:
                findings.append(Finding(path, "is a link to a folder above it, which never ends", None))
                continue
            yield from _walk(root, real, path + "/", (*above, real), follow, findings)
        elif stat.S_ISREG(mode):
            yield Entry(path, real)
        else:
            findings.append(Finding(path, "is a device, pipe or socket, not a file", None))


def _link_target(root: Path, link: Path, path: str, findings: list[Finding]) -> Path | None:
    """Where a link leads if it stays inside the folder; what it does is a finding either way."""
    if is_ignored(link.name, folder=True) or is_ignored(link.name, folder=False):
        return None
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):
        findings.append(Finding(path, "is a link that leads nowhere", None))
        return None
    if not target.is_relative_to(root):
        findings.append(Finding(path, "is a link that leaves the model's folder", None))
        return None
    findings.append(Finding(path, "is a symbolic link", "links"))
    return target
