"""The file of the pinned: read as it stands, written whole, and trusted only where it is one."""

import stat
from pathlib import Path

import pytest

from app.custody.identity import generate
from app.custody.roster import Pinned, Roster, RosterFile, WorkerKeys, parse, to_text
from app.errors import ConflictError, InvalidRequestError, NotFoundError, NotReadyError


def _pinned(name: str) -> Pinned:
    identity = generate()
    return Pinned(name, identity.public_key, identity.signing_public_key)


def test_what_is_written_reads_back_the_same(tmp_path: Path) -> None:
    """Custodians in their order, the worker, and who left."""
    ada, bob, carol = _pinned("ada"), _pinned("bob@lab.example"), Pinned("carol", generate().public_key)
    roster = Roster((ada, bob, carol), WorkerKeys.of(generate()))
    roster = roster.without_custodian("bob@lab.example", until=12)
    file = RosterFile(tmp_path / "state" / "custodians")
    file.write(roster)
    assert file.read() == RosterFile(file.path).read() == parse(to_text(roster).encode()) == roster
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert [each.name for each in file.path.parent.iterdir()] == ["custodians"]


def test_a_change_of_the_file_is_seen_at_the_next_read_and_its_mode_is_kept(tmp_path: Path) -> None:
    """By whatever process it was made."""
    seen, written = (RosterFile(tmp_path / "custodians") for _ in range(2))
    written.write(Roster((_pinned("ada"),)))
    assert len(seen.read().custodians) == 1
    written.path.chmod(0o644)
    written.write(seen.read().with_custodian(_pinned("bob")))
    assert [each.name for each in seen.read().custodians] == ["ada", "bob"]
    assert stat.S_IMODE(written.path.stat().st_mode) == 0o644


def test_a_removed_custodian_signs_no_more_but_what_they_signed_can_be_read() -> None:
    """Added again, they are former no more."""
    ada = _pinned("ada")
    roster = Roster((ada, _pinned("bob"))).without_custodian("ada")
    assert roster.custodian(ada.fingerprint) is None
    assert roster.custodians_named(ada.fingerprint) == (ada,)
    assert roster.custodians_named(ada.fingerprint, now=True) == ()
    assert ada.public_key not in roster.public_keys
    back = roster.with_custodian(ada)
    assert (back.custodian(ada.fingerprint), back.former) == (ada, ())
    with pytest.raises(NotFoundError, match="zoe"):
        back.without_custodian("zoe")


def test_what_somebody_signs_counts_up_to_the_entry_at_which_they_left() -> None:
    """Where the file does not say which, the log has to, until the file is written again."""
    ada, bob = _pinned("ada"), _pinned("bob")
    roster = Roster((ada, bob)).without_custodian("ada", until=12)
    assert [roster.counts(each, entry) for each in (*roster.former, bob) for entry in (12, 13)] == [
        *(True, False),
        *(True, True),
    ]
    of_before = Roster((ada, bob)).without_custodian("ada")
    assert of_before.counts(ada, 13) is None
    assert [of_before.bounded(12).counts(each, 13) for each in of_before.bounded(12).former] == [False]
    assert roster.bounded(99) == roster


def test_who_comes_back_with_another_signing_key_keeps_what_they_signed_with_the_first(
    tmp_path: Path,
) -> None:
    """Each key up to the entry at which it left; the file says so of both, also where both left."""
    ada, other = _pinned("ada"), _pinned("other")
    anew = Pinned("ada", ada.public_key, other.signing_key)
    roster = Roster((ada,)).without_custodian("ada", until=12).with_custodian(anew)
    first, second = Pinned("ada", ada.public_key, ada.signing_key, 12), anew
    assert roster.custodians_named(ada.fingerprint) == (second, first)
    assert [roster.counts(each, 13) for each in (second, first)] == [True, False]
    roster = roster.without_custodian("ada", until=20)
    assert [each.until for each in roster.former] == [12, 20]
    file = RosterFile(tmp_path / "custodians")
    file.write(roster)
    assert RosterFile(file.path).read() == roster
    # The first once more: it counts without end again, and the second up to where it left.
    back = roster.with_custodian(ada)
    assert [each.until for each in back.custodians_named(ada.fingerprint)] == [None, 20]


def test_names_and_keys_are_pinned_once() -> None:
    """And a name is one."""
    ada = _pinned("ada")
    roster = Roster((ada,))
    with pytest.raises(ConflictError, match="'ada'"):
        roster.with_custodian(Pinned("bob", ada.public_key))
    with pytest.raises(ConflictError, match="'ada'"):
        roster.with_custodian(_pinned("ada"))
    with pytest.raises(InvalidRequestError, match="64 letters"):
        roster.with_custodian(_pinned('a"b'))
    with pytest.raises(InvalidRequestError, match="another name"):
        roster.with_custodian(_pinned("worker"))


def test_the_workers_key_is_no_custodians_and_a_custodians_not_the_workers() -> None:
    """Reports would be sealed to the worker; a file that has both from before is read all the same."""
    ada, worker = generate(), WorkerKeys.of(generate())
    of_worker = Pinned("filer", worker.public_key, worker.signing_key)
    with pytest.raises(ConflictError, match="the filing worker's"):
        Roster(worker=worker).with_custodian(of_worker)
    with pytest.raises(ConflictError, match="the filing worker's"):
        Roster(worker=worker).with_custodian(Pinned("filer", ada.public_key, worker.signing_key))
    with pytest.raises(ConflictError, match="'cordon custodian remove filer' first"):
        Roster((of_worker,)).with_worker(worker)
    both = Roster((of_worker,), worker=worker)
    assert parse(to_text(both).encode()) == both
    assert both.with_custodian(_pinned("ada")).custodians[0] == of_worker
    assert both.without_custodian("filer").with_worker(worker).worker == worker


# A key made once: the ids of tests must be the same in every process.
ADA = '[custodian."ada"]\npublic_key = "age1up3l4wze9qej6976rqpnpspmewq8lzwyzn897juvxtyupxt24qgqk8jhck"\n'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[custodian", "not TOML"),
        ("\xff", "not TOML"),
        ("[people]", "unknown table"),
        ("custodian = 1", "write its tables as"),
        ('[custodian."ada"]', "needs a public_key"),
        (ADA + 'secret = "x"', "nothing else"),
        (ADA.replace("age1", "age2"), "no age public key"),
        ('[custodian."ada"]\npublic_key = "AGE-SECRET-KEY-1QQ"', "private key"),
        (ADA + 'signing_key = "ed25519:AA=="', "no signing key"),
        (ADA + ADA.replace("ada", "bob"), "already the key"),
        (ADA.replace("ada", "../ada"), "name that is none"),
        (ADA.replace('[custodian."ada"]', "[worker]"), "needs a signing_key"),
        (ADA + "until = 4\n", "no number of an entry"),
        (ADA.replace("custodian", "former") + "until = -1\n", "no number of an entry"),
    ],
)
def test_a_file_of_another_form_trusts_nobody_and_says_where(tmp_path: Path, content: str, said: str) -> None:
    """Not even those of its entries that are good."""
    file = RosterFile(tmp_path / "custodians")
    file.path.write_bytes(content.encode("latin-1"))
    with pytest.raises(NotReadyError) as refusal:
        file.read()
    assert said in str(refusal.value)
    assert str(file.path) in str(refusal.value)


def test_a_file_that_is_not_there_or_that_others_may_write_trusts_nobody(tmp_path: Path) -> None:
    """Where none is named and none is there yet, that is nobody; where one must be, it is a fault."""
    file = RosterFile(tmp_path / "custodians")
    assert file.read_if_there() == Roster()
    with pytest.raises(NotReadyError, match="is not there"):
        file.read()
    file.write(Roster((_pinned("ada"),)))
    assert file.read().custodians
    file.path.chmod(0o602)
    with pytest.raises(NotReadyError, match="others may write"):
        file.read_if_there()
