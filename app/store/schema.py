"""The tables, for SQLite and PostgreSQL alike. ``migrations/`` makes them; a test holds both together.

What stands here in the clear is all that a thief of the database reads: ids, times, states, kinds,
keyed hashes and fingerprints, beside the banks themselves. Context, URLs and hashes of matches stand only
inside the sealed columns.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    false,
    text,
)

from app.store.rows import UnreadableRowError

_Processor = Callable[[Any], datetime | None]


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC, timezone-aware on both databases; naive values are refused.

    What stands there and is no moment is an ``UnreadableRowError``.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Refuse naive times and bring the others to UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            message = "a time without a timezone cannot be stored"
            raise ValueError(message)
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Give back aware times; SQLite forgets the zone, which is always UTC here."""
        if value is None:
            return None
        try:
            return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        except (AttributeError, OverflowError):
            raise UnreadableRowError from None

    def result_processor(self, dialect: Dialect, coltype: object) -> _Processor | None:
        """As above, with what the column's own type makes of it before."""
        process = super().result_processor(dialect, coltype)
        return None if process is None else partial(_moment, process)


def _moment(process: _Processor, value: Any) -> datetime | None:  # noqa: ANN401 - SQLite holds anything
    try:
        return process(value)
    except (ValueError, TypeError):
        raise UnreadableRowError from None


# SQLite only counts up by itself on INTEGER PRIMARY KEY.
_AutoId = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# One row, made by the first migration. Every change of a bank or an entry takes the next generation in its
# own transaction.
index_state = Table(
    "index_state",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("generation", BigInteger, nullable=False),
    # Removed entries up to here are gone for good: a snapshot older than this must be built anew.
    Column("pruned_generation", BigInteger, nullable=False),
)

# The history of the banks, one row a generation.
changes = Table(
    "changes",
    metadata,
    Column("id", _AutoId, primary_key=True),
    # NULL while a large import is on its way: nothing it brought is visible until it takes a generation.
    Column("generation", BigInteger, unique=True),
    # Random. Tells the snapshots of this history from those of another database that came to the same
    # number, or of this one before a backup was restored.
    Column("nonce", LargeBinary, nullable=False),
    Column("bank_id", BigInteger, nullable=False),
    Column("added", Integer, nullable=False),
    Column("removed", Integer, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    # What an import says of all its entries at once; what a line says otherwise stands in ``opinions``.
    Column("source_id", Integer),
    Column("classification", Text),
    Column("restrictions", Text),
    sqlite_autoincrement=True,
)

banks = Table(
    "banks",
    metadata,
    Column("id", _AutoId, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("action", Text, nullable=False),
    # Why a csam bank only blocks; shown in the status.
    Column("no_report_reason", Text),
    # {"pdq": 31, "phash": 6}; absent types use the defaults.
    Column("thresholds", JSON, nullable=False),
    Column("max_age_seconds", Integer),
    Column("created_at", UtcDateTime, nullable=False),
    # The generation of its first import. A bank counts once that is in force.
    Column("first_generation", BigInteger),
    Column("changed_at", UtcDateTime),
    # {"strong": "report", "near": "block"}; absent tiers do what ``action`` says.
    Column("tier_actions", JSON, nullable=False, server_default=text("'{}'")),
    Column("minimum_quality", Integer, nullable=False, server_default=text("50")),
    # A snapshot may still hold entries of a deleted bank: its id must never come back for another.
    sqlite_autoincrement=True,
)

# An entry stands while its bank and its change do. Neither is a foreign key, so that a bank of millions is
# deleted, or an import given up, at once; what is left over is swept away in small transactions.
entries = Table(
    "entries",
    metadata,
    Column("id", _AutoId, primary_key=True),
    Column("bank_id", BigInteger, nullable=False),
    Column("type", Text, nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("note", Text),
    # The change that brought it; visible once that has a generation.
    Column("change_id", BigInteger, nullable=False, index=True),
    Column("removed_generation", BigInteger),
    Index(
        "uq_entries_present",
        "bank_id",
        "type",
        "value",
        unique=True,
        sqlite_where=text("removed_generation IS NULL"),
        postgresql_where=text("removed_generation IS NULL"),
    ),
    Index(
        "ix_entries_removed_generation",
        "removed_generation",
        sqlite_where=text("removed_generation IS NOT NULL"),
        postgresql_where=text("removed_generation IS NOT NULL"),
    ),
    sqlite_autoincrement=True,
)

# Who gives signals.
sources = Table(
    "sources",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
)

# What a source says of one entry, where the change that brought the entry does not say it: one row for each
# import that told something new. A source's newest row is its opinion. Read only once the change has a
# generation; swept away with the entry or the change.
opinions = Table(
    "opinions",
    metadata,
    Column("entry_id", BigInteger, primary_key=True, autoincrement=False),
    Column("source_id", Integer, primary_key=True, autoincrement=False),
    Column("change_id", BigInteger, primary_key=True, autoincrement=False),
    Column("reference", Text),
    Column("classification", Text),
    Column("restrictions", Text),
    # As an RFC 3339 date or moment.
    Column("listed_at", Text),
    # The source stands by the entry no more.
    Column("withdrawn", Boolean, nullable=False, server_default=false()),
)

# What people, and the flood guard, decided of single entries; most have no row here.
entry_marks = Table(
    "entry_marks",
    metadata,
    Column("entry_id", BigInteger, primary_key=True, autoincrement=False),
    Column("bank_id", BigInteger, nullable=False, index=True),
    Column("disabled_at", UtcDateTime),
    Column("disabled_by", Text),
    Column("disabled_why", Text),
    # The flood guard parked it, and nobody decided yet.
    Column("parked_at", UtcDateTime),
    # Somebody decided that it may go on: it is not parked again before this.
    Column("tolerated_until", UtcDateTime),
)

# Which entry of a suppression bank may cancel which csam entry.
suppression_pairs = Table(
    "suppression_pairs",
    metadata,
    Column("suppressor_id", BigInteger, primary_key=True, autoincrement=False),
    Column("entry_id", BigInteger, primary_key=True, autoincrement=False),
    Column("at", UtcDateTime, nullable=False),
    Column("by", Text, nullable=False),
)

# How many different media an entry matched on a day, and nothing of them.
entry_days = Table(
    "entry_days",
    metadata,
    Column("entry_id", BigInteger, primary_key=True, autoincrement=False),
    Column("day", Date, primary_key=True),
    Column("media", Integer, nullable=False),
)

# PDQ values of clear media, only where the operator chose to keep some: no time but the day, no place, no
# account.
kept_values = Table(
    "kept_values",
    metadata,
    Column("id", _AutoId, primary_key=True),
    Column("day", Date, nullable=False, index=True),
    Column("value", LargeBinary, nullable=False),
)

custodians = Table(
    "custodians",
    metadata,
    Column("id", _AutoId, primary_key=True),
    Column("name", Text, nullable=False),
    # The age recipient and the Ed25519 verification key, both public.
    Column("public_key", Text, nullable=False),
    Column("signing_key", Text),
    Column("fingerprint", Text, nullable=False),
    Column("added_at", UtcDateTime, nullable=False),
    Column("removed_at", UtcDateTime),
    Index(
        "uq_custodians_active_name",
        "name",
        unique=True,
        sqlite_where=text("removed_at IS NULL"),
        postgresql_where=text("removed_at IS NULL"),
    ),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    # SHA-256 of the token, which is random and long: nothing to guess, so no slow hash is needed.
    Column("token_hash", LargeBinary, nullable=False, unique=True),
    Column("scopes", JSON, nullable=False),
    Column("profile", Text, nullable=False),
    # Requests a second and at once, over all gates together.
    Column("rate_per_second", Integer, nullable=False),
    Column("concurrency", Integer, nullable=False),
    Column("probe_guard", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("last_used_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
)

reports = Table(
    "reports",
    metadata,
    Column("id", Text, primary_key=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("state", Text, nullable=False),
    # When it came to this state; NULL while it is the first.
    Column("changed_at", UtcDateTime),
    # Why it is parked: one of a few fixed words, never anything that a report holds sealed.
    Column("cause", Text),
    # The last decision, and the receipt of the authority: what retention is counted from.
    Column("decided_at", UtcDateTime),
    Column("receipt_at", UtcDateTime),
    Column("on_hold", Boolean, nullable=False),
    Column("bank_kind", Text, nullable=False),
    # Keyed hash of medium and place while the report is queued; NULL afterwards and for uploads
    # without a place.
    Column("place_hash", LargeBinary, unique=True),
    # Fingerprints of the custodians it is sealed to.
    Column("custodians", JSON, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("sealed_sha256", LargeBinary, nullable=False),
    Index("ix_reports_state", "state", "created_at"),
)

# Later sightings of the same medium at the same place, each with a sealed stub of its own.
sightings = Table(
    "sightings",
    metadata,
    Column("id", Text, primary_key=True),
    Column("report_id", Text, ForeignKey("reports.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("seen_at", UtcDateTime, nullable=False),
    Column("custodians", JSON, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("sealed_sha256", LargeBinary, nullable=False),
)

# What custodians decided, in order: each row is the very document that one of them signed. It goes with its
# report; its digest stays in the audit log.
decisions = Table(
    "decisions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("report_id", Text, ForeignKey("reports.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("at", UtcDateTime, nullable=False),
    Column("action", Text, nullable=False),
    # Fingerprint of who signed.
    Column("custodian", Text, nullable=False),
    Column("document", LargeBinary, nullable=False),
)

# How far the filing of an approved report has come. What the authority said is committed here before
# anything else is done.
filings = Table(
    "filings",
    metadata,
    Column("report_id", Text, ForeignKey("reports.id", ondelete="CASCADE"), primary_key=True, nullable=False),
    # double, test or production: ids of one mean nothing to another.
    Column("environment", Text, nullable=False),
    # submitting, opened, finishing or finished.
    Column("step", Text, nullable=False),
    Column("authority_report_id", Text),
    Column("request_id", Text),
    Column("opened_at", UtcDateTime),
    # Set before the irreversible call: from then on only the authority knows whether it was filed.
    Column("finish_attempted_at", UtcDateTime),
    Column("last_code", Integer),
    Column("attempts", Integer, nullable=False),
    Column("first_attempt_at", UtcDateTime, nullable=False),
    Column("next_attempt_at", UtcDateTime, nullable=False, index=True),
    # Whose turn it is, and until when.
    Column("lease", LargeBinary),
    Column("leased_until", UtcDateTime),
    # The authority's receipt, verbatim, sealed to the custodians.
    Column("receipt", LargeBinary),
)

# What is left of removed reports.
tombstones = Table(
    "tombstones",
    metadata,
    Column("id", Text, primary_key=True),
    Column("bank_kind", Text, nullable=False),
    # How it ended.
    Column("state", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("decided_at", UtcDateTime),
    Column("receipt_at", UtcDateTime),
    # What the authority called it, should it ask again.
    Column("authority_report_id", Text),
    Column("removed_at", UtcDateTime, nullable=False),
    # The signed decision that ordered it; NULL if its time was over.
    Column("document", LargeBinary),
    # When nothing of it was left in the database's files; NULL until then.
    Column("erased_at", UtcDateTime),
)

# What a person must look at, until somebody does or the cause is gone.
alarms = Table(
    "alarms",
    metadata,
    Column("id", _AutoId, primary_key=True),
    Column("kind", Text, nullable=False),
    # An id: of a report, a bank entry, a process; never anything that a report holds sealed.
    Column("subject", Text, nullable=False),
    Column("raised_at", UtcDateTime, nullable=False),
    Column("cleared_at", UtcDateTime),
    Index(
        "uq_alarms_raised",
        "kind",
        "subject",
        unique=True,
        sqlite_where=text("cleared_at IS NULL"),
        postgresql_where=text("cleared_at IS NULL"),
    ),
    sqlite_autoincrement=True,
)

# What is still to be told by webhook or e-mail: ids and states alone.
notices = Table(
    "notices",
    metadata,
    Column("id", Text, primary_key=True),
    # NULL until the worker, which alone knows the channels, gives it a copy for each.
    Column("channel", Text),
    Column("event", Text, nullable=False),
    Column("subject", Text, nullable=False),
    # Of the report, or the alarm's kind.
    Column("state", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", UtcDateTime, nullable=False, index=True),
)

# Matches made under an Idempotency-Key: a keyed hash of token, key, medium and place.
idempotency = Table(
    "idempotency",
    metadata,
    Column("keyed_hash", LargeBinary, primary_key=True),
    Column("report_id", Text, ForeignKey("reports.id", ondelete="CASCADE"), nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)

# Append-only and hash-chained: each digest covers the entry and the digest before it.
audit = Table(
    "audit",
    metadata,
    Column("seq", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=False),
    Column("at", UtcDateTime, nullable=False),
    Column("event", Text, nullable=False),
    Column("subject", Text, nullable=False, index=True),
    Column("details", Text, nullable=False),
    Column("previous", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=False),
)

# The chain's head at some moment, signed; a copy kept elsewhere shows what was cut off or rewritten.
audit_checkpoints = Table(
    "audit_checkpoints",
    metadata,
    Column("seq", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=False),
    Column("signer", Text, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("document", LargeBinary, nullable=False),
)

# Running processes and the index generation each has in force; the row is also the write that proves
# that the database can be written.
processes = Table(
    "processes",
    metadata,
    Column("id", Text, primary_key=True),
    Column("role", Text, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
    Column("generation", BigInteger, nullable=False),
)

# What several gates took of the limits of a key: see app/store/allowances.py. Gates that are alone write
# nothing here.
key_permits = Table(
    "key_permits",
    metadata,
    Column("key_id", Text, ForeignKey("keys.id", ondelete="CASCADE"), primary_key=True),
    # When its permits will all be there again, in seconds since 1970 by the database's clock.
    Column("full_at", Double, nullable=False),
)

key_slots = Table(
    "key_slots",
    metadata,
    Column("key_id", Text, ForeignKey("keys.id", ondelete="CASCADE"), primary_key=True),
    Column("process_id", Text, ForeignKey("processes.id", ondelete="CASCADE"), primary_key=True, index=True),
    Column("requests", Integer, nullable=False),
    Column("lines", Integer, nullable=False),
)

# Random values that the first migration makes.
secrets = Table(
    "secrets",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
