"""What replicas were seen to use, and when endpoints were used last."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "seen_memory",
        sa.Column("digest", sa.String(80), nullable=False),
        sa.Column("engine", sa.String(40), nullable=False),
        sa.Column("settings", sa.String(64), nullable=False),
        sa.Column("peak_bytes", sa.BigInteger, nullable=False),
        sa.Column("runs", sa.Integer, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("digest", "engine", "settings", name="pk_seen_memory"),
    )
    op.create_table(
        "last_uses",
        sa.Column("endpoint", sa.String(63), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("endpoint", name="pk_last_uses"),
    )
