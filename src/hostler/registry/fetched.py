"""What a source gives: a folder of files on this machine."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from hostler.spec.model import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedFolder:
    """The files of a source, here. `source` names exactly what was fetched: its revision is a commit where it can be.

    `only` is the one file of `root` that is meant, if it is one. `temporary` folders are ours: what they hold may
    be linked into the blob store, and `discard` deletes them. `notes` tell what was left out and why.
    """

    source: Source
    root: Path
    only: str | None = None
    temporary: bool = False
    notes: tuple[str, ...] = ()

    @property
    def place(self) -> Path:
        """The file or folder that is the model."""
        return self.root / self.only if self.only is not None else self.root

    def discard(self) -> None:
        """Delete what was downloaded; what was read in place stays. Idempotent."""
        if self.temporary:
            shutil.rmtree(self.root, ignore_errors=True)
