"""`hostler schema`: the JSON Schemas of what users write."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

import click

from hostler.spec.documents import KINDS, json_schemas
from hostler.spec.errors import NotFound


@click.command()
@click.argument("kind", required=False)
@click.option("--dir", "folder", type=click.Path(path_type=Path, file_okay=False), help="Write KIND.json files there.")
def schema(kind: str | None, folder: Path | None) -> None:
    """Print the JSON Schema of KIND (model or deployment), or of all kinds. Needs no platform."""
    schemas = json_schemas()
    if kind is not None and kind not in schemas:
        close = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Kinds: {', '.join(KINDS)}."
        raise NotFound(f"There is no kind {kind!r}.", hint=hint, param="kind")
    chosen = schemas if kind is None else {kind: schemas[kind]}
    if folder is None:
        click.echo(json.dumps(chosen if kind is None else schemas[kind], indent=2))
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in chosen.items():
        path = folder / f"{name}.json"
        path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        click.echo(path)
