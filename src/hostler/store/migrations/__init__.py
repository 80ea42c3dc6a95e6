"""Schema migrations, by Alembic. Imported only when a database is behind, so that a usual start does not pay for it."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from hostler.spec.errors import HostlerError


def configuration() -> Config:
    """Alembic's configuration, with this folder as its script location."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def known_revisions() -> set[str]:
    """Every migration this version has."""
    return {script.revision for script in ScriptDirectory.from_config(configuration()).walk_revisions()}


def upgrade(engine: Engine, found: str, path: Path) -> None:
    """Bring the database from revision `found` to the newest, in one transaction.

    Raises `HostlerError` if `found` is a revision this version does not know: a newer Hostler wrote it.
    """
    config = configuration()
    if found not in known_revisions():
        raise HostlerError(
            f"{path} was written by a newer Hostler (schema {found}).",
            hint="Install that version again, or use another --home.",
            code="database_newer",
        )
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
