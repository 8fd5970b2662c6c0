"""From which entry of the audit log on removals are signed: what was removed before proves nothing."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

APPEND_LOCK = 0x436F72646F6E02

audit = sa.table(
    "audit",
    sa.column("seq", sa.BigInteger()),
    sa.column("at", sa.DateTime(timezone=True)),
    sa.column("event", sa.Text()),
    sa.column("subject", sa.Text()),
    sa.column("details", sa.Text()),
    sa.column("previous", sa.LargeBinary()),
    sa.column("digest", sa.LargeBinary()),
)


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": APPEND_LOCK})
    newest = connection.execute(
        sa.select(audit.c.seq, audit.c.digest).order_by(audit.c.seq.desc()).limit(1)
    ).one_or_none()
    # A new log needs no such entry, and one that ends in what no Cordon wrote takes none.
    if newest is None or not isinstance(newest.seq, int) or not isinstance(newest.digest, bytes):
        return
    entry = {
        "seq": newest.seq + 1,
        "at": datetime.now(UTC),
        "event": "removals.signed",
        "subject": "removals",
        "details": "{}",
        "previous": newest.digest,
    }
    connection.execute(audit.insert().values(**entry, digest=digest(entry)))


def digest(entry: dict[str, Any]) -> bytes:
    """As the log has it since it began."""
    covered = {
        **entry,
        "at": entry["at"].isoformat(timespec="microseconds"),
        "previous": entry["previous"].hex(),
    }
    written = json.dumps(covered, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(written.encode()).digest()
