"""Tiers and qualities of banks; sources, opinions and marks of entries; suppression; what dry runs need."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "banks", sa.Column("tier_actions", sa.JSON(), nullable=False, server_default=sa.text("'{}'"))
    )
    op.add_column(
        "banks", sa.Column("minimum_quality", sa.Integer(), nullable=False, server_default=sa.text("50"))
    )
    op.add_column("changes", sa.Column("source_id", sa.Integer(), nullable=True))
    op.add_column("changes", sa.Column("classification", sa.Text(), nullable=True))
    op.add_column("changes", sa.Column("restrictions", sa.Text(), nullable=True))

    op.create_table(
        "sources",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sources"),
        sa.UniqueConstraint("name", name="uq_sources_name"),
    )
    op.create_table(
        "opinions",
        sa.Column("entry_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("source_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("change_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("reference", sa.Text(), nullable=True),
        sa.Column("classification", sa.Text(), nullable=True),
        sa.Column("restrictions", sa.Text(), nullable=True),
        sa.Column("listed_at", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("entry_id", "source_id", "change_id", name="pk_opinions"),
    )
    op.create_table(
        "entry_marks",
        sa.Column("entry_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("bank_id", sa.BigInteger(), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("disabled_by", sa.Text(), nullable=True),
        sa.Column("disabled_why", sa.Text(), nullable=True),
        sa.Column("parked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("tolerated_until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("entry_id", name="pk_entry_marks"),
    )
    op.create_index("ix_entry_marks_bank_id", "entry_marks", ["bank_id"])
    op.create_table(
        "suppression_pairs",
        sa.Column("suppressor_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("entry_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("suppressor_id", "entry_id", name="pk_suppression_pairs"),
    )
    op.create_table(
        "entry_days",
        sa.Column("entry_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("media", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("entry_id", "day", name="pk_entry_days"),
    )
    op.create_table(
        "kept_values",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_kept_values"),
    )
    op.create_index("ix_kept_values_day", "kept_values", ["day"])
