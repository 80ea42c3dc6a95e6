"""How many replicas autoscaling wants, and what it remembers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("deployments", sa.Column("autoscaled", sa.Integer))
    op.create_table(
        "scaling",
        sa.Column("deployment", sa.String(63), nullable=False),
        sa.Column("memory", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("deployment", name="pk_scaling"),
        sa.ForeignKeyConstraint(
            ["deployment"], ["deployments.name"], name="fk_scaling_deployment_deployments", ondelete="CASCADE"
        ),
    )
