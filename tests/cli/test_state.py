"""Keys, custodians and the database, on SQLite and PostgreSQL where they differ."""

import sqlite3
import stat

from app.settings import StoreSettings
from tests.cli.conftest import Cordon


def test_a_key_is_shown_once_and_can_be_revoked(cordon: Cordon) -> None:
    """As JSON with id, token and scopes; the list has no token, the database holds none."""
    made = cordon("key", "create", "--name", "ci", "--scope", "ingest", "--scope", "ops", "--json")
    assert made.code == 0
    assert set(made.document) == {"id", "token", "scopes"}
    assert made.document["scopes"] == ["ingest", "ops"]
    listed = cordon("key", "list", "--json")
    assert [key["id"] for key in listed.documents] == [made.document["id"]]
    token = made.document["token"].encode()
    assert token not in listed.out
    files = list((cordon.home / "state").glob("cordon.db*"))
    assert files
    assert not [path for path in files if token in path.read_bytes()]
    assert cordon("key", "revoke", made.document["id"]).code == 0
    assert b"revoked" in cordon("key", "list").out
    unknown = cordon("key", "revoke", "nobody")
    assert (unknown.code, unknown.err) == (1, "cordon: There is no such key.\n")


def test_a_key_whose_row_cannot_be_read_is_named_and_the_others_are_listed(cordon: Cordon) -> None:
    """Whatever somebody wrote to it, and to its id."""
    ids = [
        cordon("key", "create", "--name", name, "--scope", "ingest", "--json").document["id"]
        for name in ("first", "second", "third")
    ]
    with sqlite3.connect(cordon.home / "state" / "cordon.db") as database:
        database.execute("UPDATE keys SET scopes = 'no list' WHERE id = ?", ids[:1])
        database.execute("UPDATE keys SET id = x'ff41', concurrency = 0 WHERE id = ?", ids[1:2])
    database.close()
    listed = cordon("key", "list", "--json")
    assert [each["id"] for each in listed.documents] == ids[2:]
    assert (listed.code, "2 of the keys cannot be read" in listed.err) == (1, True)
    assert f"key {ids[0]} cannot be read" in listed.err
    assert "xff" in listed.err
    assert b"third" in cordon("key", "list").out


def test_a_key_for_people_is_the_token_alone_with_a_warning(cordon: Cordon) -> None:
    """So that it can be put where it belongs with a redirect."""
    made = cordon("key", "create", "--name", "scraper", "--scope", "ingest")
    assert made.out.startswith(b"cordon_")
    assert len(made.out.splitlines()) == 1
    assert "shown once" in made.err


def test_a_key_needs_a_known_scope_and_profile(cordon: Cordon) -> None:
    """Exit 2, told with what there is."""
    scope = cordon("key", "create", "--name", "x", "--scope", "everything")
    assert (scope.code, "known: ingest, bank, bank:suppress, report, ops" in scope.err) == (2, True)
    profile = cordon("key", "create", "--name", "x", "--scope", "ingest", "--profile", "odd")
    assert (profile.code, "known: default" in profile.err) == (2, True)
    (cordon.home / "cordon.toml").write_text("[profile.odd]\ndisclose_banks = true\n")
    assert cordon("key", "create", "--name", "x", "--scope", "ingest", "--profile", "odd").code == 0


def test_custodians_are_made_added_listed_and_removed(cordon: Cordon) -> None:
    """Keygen prints the public key alone; the file is private; one custodian is too few."""
    made = cordon("custodian", "keygen", "--out", "ada.key")
    public_key = made.out.decode().strip()
    assert public_key.startswith("age1")
    assert stat.S_IMODE((cordon.home / "ada.key").stat().st_mode) == 0o600
    signing_key = made.err.split("--signing-key ")[1].split()[0]
    again = cordon("custodian", "keygen", "--out", "ada.key")
    assert again.code == 1
    added = cordon("custodian", "add", "ada", public_key, "--signing-key", signing_key)
    assert added.code == 0
    assert "one lost key loses every report" in added.err
    (listed,) = cordon("custodian", "list", "--json").documents
    assert (listed["name"], listed["public_key"], listed["signing_key"]) == ("ada", public_key, signing_key)
    private = (cordon.home / "ada.key").read_text().splitlines()[-1]
    refused = cordon("custodian", "add", "eve", private)
    assert refused.code == 2
    assert private not in refused.err
    assert cordon("custodian", "remove", "ada").code == 0
    assert cordon("custodian", "list", "--json").out == b""


async def test_an_empty_database_is_migrated_by_whoever_uses_it_first(
    cordon: Cordon, empty_store: StoreSettings
) -> None:
    """Check alone changes nothing; on both databases."""
    given = {"CORDON_DATABASE_URL": empty_store.database_url} if empty_store.database_url else {}
    unmigrated = cordon("db", "check", given=given)
    assert unmigrated.code == 1
    assert "cordon db upgrade" in unmigrated.err
    assert cordon("key", "list", given=given).code == 0
    assert cordon("db", "check", given=given).code == 0
    assert cordon("db", "upgrade", given=given).code == 0


def test_an_old_database_is_refused_until_it_is_upgraded(cordon: Cordon) -> None:
    """The mend is named; nothing is changed behind the operator's back."""
    assert cordon("bank", "list").code == 0
    with sqlite3.connect(cordon.home / "state" / "cordon.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'of another time'")
    database.close()
    ran = cordon("bank", "list")
    assert ran.code == 1
    assert "install that" in ran.err or "cordon db upgrade" in ran.err


def test_a_database_that_does_not_answer_is_told_without_its_url(cordon: Cordon) -> None:
    """Exit 1; the URL may hold a password."""
    url = "postgresql://somebody:secret-password@127.0.0.1:1/gate"
    ran = cordon("key", "list", given={"CORDON_DATABASE_URL": url})
    assert ran.code == 1
    assert "database" in ran.err
    assert "secret-password" not in ran.err
    assert len(ran.err.splitlines()) == 1
