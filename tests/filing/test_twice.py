"""A report that is there twice, where somebody dropped the key of the table: it stands before no other."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from app.filing.cybertip.environment import Environment
from app.filing.filer import Filer
from app.retention import purge
from app.settings import RetentionSettings, StoreSettings
from app.store import alarms
from app.store.alarms import AlarmKind
from app.store.database import Database
from tests.filing.office import Office, open_office
from tests.store.test_garbage import free_of_constraints


async def standing(office: Office) -> set[tuple[AlarmKind, str]]:
    async with office.database.connect() as connection:
        return {(each.kind, each.subject) for each in await alarms.standing(connection)}


async def test_a_report_that_is_there_twice_is_named_and_the_others_are_filed(
    database: Database, store: StoreSettings
) -> None:
    async with open_office(database, store, environment=Environment.PRODUCTION) as office:
        twice, other = await office.approved("a"), await office.approved("b")
        await free_of_constraints(database, "filings")
        async with database.begin() as connection:
            for statement in (
                "DROP INDEX free_report",
                f"CREATE TABLE aside AS SELECT * FROM reports WHERE id = '{twice}'",  # noqa: S608 - a ULID
                "INSERT INTO reports SELECT * FROM aside",
            ):
                await connection.execute(text(statement))
        await Filer(database, office.desk, timedelta(hours=72)).turn()
        assert office.double.tell(other)["finished"] == 1
        assert office.double.tell(twice)["finished"] == 0
        assert await standing(office) == {(AlarmKind.ROW_UNREADABLE, twice)}
        (found,) = {each.what for each in await office.doubts(twice)}
        assert "no Cordon wrote" in found
        removed = await purge.purge(
            *(database, RetentionSettings(), office.pins.read(), datetime.now(UTC)),
            by="worker",
            identity=office.worker,
        )
        assert removed == ()
        assert (AlarmKind.REPORT_ALTERED, twice) in await standing(office)
