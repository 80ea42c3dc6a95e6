"""The tables. Columns named `*_at` and `since` hold unix seconds.

`spec`, `template`, `endpoints`, `rollout` and `memory` hold JSON text.

`day` is a date in UTC, `2026-01-31`.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, ForeignKey, Index, Integer, MetaData, String, Table, Text

SCHEMA_REVISION = "0005"
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
    Column("endpoint", String(63), nullable=False, index=True),
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
    Column("rollout", Text),
    Column("autoscaled", Integer),
)

scaling = Table(
    "scaling",
    metadata,
    Column("deployment", String(63), ForeignKey("deployments.name", ondelete="CASCADE"), primary_key=True),
    Column("memory", Text, nullable=False),
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
    Column("rpm", BigInteger),
    Column("tpm", BigInteger),
    Column("max_concurrency", BigInteger),
)

usage = Table(
    "usage",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("at", Float, nullable=False, index=True),
    Column("day", String(10), nullable=False),
    Column("key", String(16), nullable=False),
    Column("project", String(63), nullable=False),
    Column("endpoint", String(63), nullable=False),
    Column("deployment", String(63), nullable=False),
    Column("outcome", String(10), nullable=False),
    Column("status", Integer, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("metered", Boolean, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("estimated", Boolean, nullable=False),
    Column("request_id", Text, nullable=False),
)

usage_days = Table(
    "usage_days",
    metadata,
    Column("day", String(10), primary_key=True),
    Column("key", String(16), primary_key=True),
    Column("project", String(63), primary_key=True),
    Column("endpoint", String(63), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("ok", BigInteger, nullable=False),
    Column("aborted", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("seconds", Float, nullable=False),
)

seen_memory = Table(
    "seen_memory",
    metadata,
    Column("digest", String(80), primary_key=True),
    Column("engine", String(40), primary_key=True),
    Column("settings", String(64), primary_key=True),
    Column("peak_bytes", BigInteger, nullable=False),
    Column("runs", Integer, nullable=False),
    Column("at", Float, nullable=False),
)

last_uses = Table(
    "last_uses",
    metadata,
    Column("endpoint", String(63), primary_key=True),
    Column("at", Float, nullable=False),
)

meta = Table(
    "meta",
    metadata,
    Column("key", String(40), primary_key=True),
    Column("value", Text, nullable=False),
)
