"""That a source withdrew what it said of an entry."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("opinions", sa.Column("withdrawn", sa.Boolean(), nullable=False, server_default=sa.false()))
