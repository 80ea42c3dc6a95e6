"""The tables. Columns named `*_at` and `since` hold unix seconds; `spec`, `template`, `endpoints` hold JSON text."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Float, ForeignKey, Index, Integer, MetaData, String, Table, Text

SCHEMA_REVISION = "0001"
"""The newest migration. A test compares it with the migrations themselves."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

deployments = Table(
    "deployments",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("endpoint", String(63), nullable=False, unique=True),
    Column("spec", Text, nullable=False),
    Column("stopped", Boolean, nullable=False),
    Column("deleting", Boolean, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("next_ordinal", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("restarts", Integer, nullable=False),
    Column("last_failure_at", Float),
    Column("last_failure", Text, nullable=False),
    Column("ever_ready", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
)

revisions = Table(
    "revisions",
    metadata,
    Column("deployment", String(63), ForeignKey("deployments.name", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("template", Text, nullable=False),
    Column("created_at", Float, nullable=False),
)

replicas = Table(
    "replicas",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("deployment", String(63), ForeignKey("deployments.name", ondelete="CASCADE"), nullable=False, index=True),
    Column("ordinal", Integer, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("state", String(20), nullable=False),
    Column("reason", String(80), nullable=False),
    Column("message", Text, nullable=False),
    Column("since", Float, nullable=False),
    Column("deadline", Float),
    Column("created_at", Float, nullable=False),
    Column("ready_at", Float),
    Column("draining_since", Float),
    Column("stop_sent_at", Float),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("level", String(10), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("name", String(80), nullable=False),
    Column("reason", String(80), nullable=False),
    Column("message", Text, nullable=False),
    Index(None, "kind", "name", "id"),
    sqlite_autoincrement=True,
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("name", String(63), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("role", String(16), nullable=False),
    Column("project", String(63), nullable=False),
    Column("endpoints", Text),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("revoked_at", Float),
)

meta = Table(
    "meta",
    metadata,
    Column("key", String(40), primary_key=True),
    Column("value", Text, nullable=False),
)
