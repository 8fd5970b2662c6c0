"""What several gates took of the limits of a key: permits to begin, and slots to run in."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "key_permits",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("full_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["key_id"], ["keys.id"], name="fk_key_permits_key_id_keys", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("key_id", name="pk_key_permits"),
    )
    op.create_table(
        "key_slots",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("process_id", sa.Text(), nullable=False),
        sa.Column("requests", sa.Integer(), nullable=False),
        sa.Column("lines", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], name="fk_key_slots_key_id_keys", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["process_id"], ["processes.id"], name="fk_key_slots_process_id_processes", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("key_id", "process_id", name="pk_key_slots"),
    )
    op.create_index("ix_key_slots_process_id", "key_slots", ["process_id"])
