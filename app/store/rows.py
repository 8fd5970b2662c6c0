"""Rows as they are read: each holds what it should, or is said to be unreadable.

SQLite keeps anything in any column, and whoever can write to the database puts it there. What Cordon reads
is checked here, once, so that one bad row stands before no good one.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar, get_origin

from sqlalchemy import ColumnElement, LargeBinary, RowMapping, Select, cast, literal, literal_column
from sqlalchemy.exc import DBAPIError, MultipleResultsFound, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import ConflictError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Made = TypeVar("Made")
Row = TypeVar("Row", bound="DataclassInstance")


class UnreadableRowError(ConflictError):
    """A row holds what no Cordon wrote there, and what its column cannot hold."""

    def __init__(self, where: str | None = None) -> None:
        """Say where, if that is known: in which report's rows; never what stands there."""
        what = f"{where}: the database" if where is not None else "The database"
        super().__init__(
            f"{what} holds what no Cordon wrote: somebody changed it. 'cordon audit verify' says where, "
            "as far as the audit log tells."
        )


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """Rows are read within: one that holds what no Cordon wrote is an ``UnreadableRowError``.

    SQLite keeps anything in any column, bytes that are no text in one of text too, and PostgreSQL times of
    other ages than Python has; where somebody dropped a key, a row can stand there twice. Whatever stumbles
    over that says so in one of these ways.
    """
    try:
        yield
    except (LookupError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise UnreadableRowError from None
    except SQLAlchemyError as error:
        if not is_unreadable(error):
            raise
        raise UnreadableRowError from None


async def read_each(
    connection: AsyncConnection, wanted: Select[Any], made: Callable[[RowMapping], Made]
) -> tuple[list[Made], list[ColumnElement[bool]]]:
    """What is made of each row, in order; and where those rows are that hold what no Cordon wrote.

    They are read together, and one by one only if one of them cannot be read, so that it stands before no
    other. What holds of the place of a row is true until the transaction ends.

    Args:
        connection: to read with.
        wanted: rows of one table.
        made: makes something of a row.
    """
    try:
        with readable():
            rows = (await connection.execute(wanted)).mappings().all()
            return [made(row) for row in rows], []
    except UnreadableRowError:
        pass
    place: ColumnElement[Any] = literal_column(
        "rowid" if connection.dialect.name == "sqlite" else "CAST(ctid AS TEXT)"
    )
    places = (await connection.execute(wanted.with_only_columns(place, maintain_column_froms=True))).scalars()
    found: list[Made] = []
    unreadable: list[ColumnElement[bool]] = []
    for at in places.all():
        there = place == literal(at)
        try:
            with readable():
                found += [made(row) for row in (await connection.execute(wanted.where(there))).mappings()]
        except UnreadableRowError:
            unreadable.append(there)
    return found, unreadable


def as_it_stands(connection: AsyncConnection, column: ColumnElement[Any]) -> ColumnElement[Any]:
    """A column to be read whatever somebody put there: SQLite keeps anything in any, and gives its bytes."""
    return cast(column, LargeBinary) if connection.dialect.name == "sqlite" else column


def as_text(untrusted: object) -> str:
    """What such a column holds, where it should hold text."""
    return untrusted.decode("utf-8", "backslashreplace") if isinstance(untrusted, bytes) else str(untrusted)


def of_its_types(row: Row) -> Row:
    """A frozen dataclass that was made of a row, if each field holds what it is declared to.

    Raises:
        UnreadableRowError: one does not: SQLite keeps anything in any column, and constraints can be dropped.
    """
    for each in fields(row):
        # What an item of a tuple or a set is, its reader has seen.
        origin = get_origin(each.type)
        declared: Any = origin if origin in {tuple, frozenset} else each.type
        if not isinstance(getattr(row, each.name), declared):
            raise UnreadableRowError
    return row


def is_unreadable(error: BaseException) -> bool:
    """Whether a row is there twice, or Python's driver found text to be no UTF-8; and no database failed."""
    if isinstance(error, MultipleResultsFound):
        return True
    origin = error.orig if isinstance(error, DBAPIError) else None
    return isinstance(origin, sqlite3.OperationalError) and not hasattr(origin, "sqlite_errorname")
