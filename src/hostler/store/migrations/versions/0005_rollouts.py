"""The rollout of a deployment; several deployments behind one endpoint."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("deployments", sa.Column("rollout", sa.Text))
    # SQLite takes a constraint away only by making the table anew, and to drop the old one deletes what refers to it.
    inspector = sa.inspect(op.get_bind())
    children = [
        name
        for name in inspector.get_table_names()
        if any(key["referred_table"] == "deployments" for key in inspector.get_foreign_keys(name))
    ]
    for name in children:
        op.execute(f'CREATE TEMPORARY TABLE "kept_{name}" AS SELECT * FROM "{name}"')  # noqa: S608 - names of this schema
    with op.batch_alter_table("deployments") as batch:
        batch.drop_constraint("uq_deployments_endpoint", type_="unique")
        batch.create_index("ix_deployments_endpoint", ["endpoint"])
    for name in children:
        op.execute(f'INSERT OR IGNORE INTO "{name}" SELECT * FROM "kept_{name}"')  # noqa: S608 - names of this schema
        op.execute(f'DROP TABLE "kept_{name}"')
