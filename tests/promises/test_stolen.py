"""Promise 5, whole: who has the database to write and all of the web process reads and decides nothing.

Gate, worker and double run as processes on sockets. The thief (``thief.py``) is a program that runs as the
web process's user, with its environment, where its files are. Each theft is then met by those whom it is
meant for: the gate, the worker, a custodian, an auditor who kept one checkpoint. Where the layout is weakened
on purpose the very same theft succeeds, so that each of these tests can fail.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.settings import StoreSettings
from tests.filing.double import Double, running_double
from tests.gates import wait_for
from tests.jail import CAN_CONTAIN
from tests.promises.site import CERTAIN, UNCERTAIN, Site, give, site

pytestmark = pytest.mark.skipif(not CAN_CONTAIN, reason="only root can be two users")


@pytest.fixture(scope="module")
def double() -> Iterator[Double]:
    with running_double() as running:
        yield running


def hidden(stolen: Site) -> list[str]:
    """What must be readable nowhere: what the reports say, and every private key of the office."""
    office = stolen.folder / "office"
    secret_keys = [
        line
        for name in ("ada", "grace", "worker")
        for line in (office / f"{name}.key").read_text().splitlines()
        if "SECRET-KEY" in line or "(private)" in line
    ]
    return [*stolen.accounts, "canary.example", *(line.split()[-1] for line in secret_keys)]


def reads(at: Site) -> bool:
    """Whether the thief reads anything of any report."""
    got = at.steal("read", str(at.worker_key))
    assert got["sealed"] > 0
    return bool(got["opened"]) or any(each in got["loot"] for each in hidden(at))


def approves(at: Site, report_ids: list[str]) -> bool:
    """Whether a forged approval of any of five waiting reports is taken in, or filed."""
    answers = at.steal("approvals", at.gate.url, *report_ids)
    assert set(answers.values()) <= {200, 409, 422}
    # Each gets its turn: approved it is filed, otherwise parked.
    wait_for(lambda: "approved" not in {at.state(each) for each in report_ids})
    return 200 in answers.values() or any(at.is_filed(each) for each in report_ids)


def becomes_a_recipient(at: Site) -> bool:
    """Whether a report from after the thief wrote its own key everywhere is sealed to that."""
    at.steal("recipients")
    at.matched()
    return reads(at)


def swaps(at: Site, report_id: str, *, quietly: bool) -> bool:
    """Whether a stub can be swapped so that neither a custodian nor an auditor notices."""
    at.steal("swap", report_id, *(["quietly"] if quietly else []))
    kept = ["--checkpoint", "kept"] if (at.folder / "office" / "kept").exists() else []
    opened = at.cordon("report", "open", report_id, "--identity", "ada.key")
    verified = at.cordon("audit", "verify", *kept)
    return "Somebody changed the database" not in opened.stderr and verified.returncode == 0


def buries(at: Site, report_ids: list[str]) -> bool:
    """Whether a worker that starts now removes a report that the thief called rejected long ago."""
    at.steal("bury", *report_ids)
    with at.working():
        wait_for(lambda: '"purged"' in at.log or altered(at) == set(report_ids))
        return '"purged"' in at.log


def altered(at: Site) -> set[str]:
    """The reports that an alarm says are not as the audit log has them."""
    alarms = at.gate.client("ops").get("/v1/status").json()["alarms"]
    return {each["subject"] for each in alarms if each["kind"] == "report_altered"}


def replays(at: Site, report_id: str) -> bool:
    """Whether an approval that was taken back is filed once it is put back."""
    at.steal("replay", report_id)
    wait_for(lambda: at.is_filed(report_id) or '"nothing_is_filed"' in at.log)
    return at.is_filed(report_id)


@pytest.mark.parametrize(
    ("store", "automatic"),
    [("sqlite", False), ("postgresql", True)],
    indirect=["store"],
    ids=["sqlite, by people", "postgresql, automatic"],
)
def test_who_has_it_all_reads_forges_adds_buries_swaps_and_replays_nothing(
    store: StoreSettings,
    double: Double,
    automatic: bool,  # noqa: FBT001 - a parameter of pytest's
) -> None:
    """On both databases; also where the worker opens and files by itself what is certain."""
    with site(store, double, automatic=automatic) as at:
        waiting = [at.matched() for _ in range(5)]
        to_swap, to_swap_quietly, taken_back, honest = (at.matched() for _ in range(4))
        buried = [at.matched() for _ in range(2)]
        assert not buries(at, buried)
        verified = at.cordon("audit", "verify").stderr
        assert all(f"report {each}" in verified for each in buried)
        at.decide("approve", taken_back)
        at.decide("reject", taken_back, "--reason", "a logo")
        with at.working():
            at.decide("approve", honest)
            filed = [honest, at.matched(CERTAIN)] if automatic else [honest]
            wait_for(lambda: all(at.is_filed(each) for each in filed))
            assert not reads(at)
            assert at.key_is_out_of_reach
            assert not approves(at, waiting)
            assert not becomes_a_recipient(at)
            warnings = at.gate.client("ops").get("/v1/status").json()["warnings"]
            assert sum("is not pinned" in each for each in warnings) == 2
            assert not swaps(at, to_swap, quietly=False)
            at.wait_until_the_worker_saw(at.keep_checkpoint())
            assert not replays(at, taken_back)
            assert not swaps(at, to_swap_quietly, quietly=True)
            alarms = at.gate.client("ops").get("/v1/status").json()["alarms"]
            assert ("audit_broken", "worker") in {(each["kind"], each["subject"]) for each in alarms}
            assert {at.state(each) for each in waiting} == {"parked"}


@pytest.fixture
def weakened(store: StoreSettings, double: Double) -> Iterator[Site]:
    with site(store, double, automatic=True) as at:
        yield at


on_sqlite = pytest.mark.parametrize("store", ["sqlite"], indirect=True)


@on_sqlite
def test_a_worker_key_in_the_web_processs_reach_is_found_and_opens_reports(weakened: Site) -> None:
    """As in the layout of one user: so the thief would find one."""
    assert weakened.matched(CERTAIN)
    assert not reads(weakened)
    key = weakened.worker_key
    key.parent.chmod(0o711)
    give(weakened.user, key)
    assert reads(weakened)
    assert not weakened.key_is_out_of_reach


@on_sqlite
def test_who_can_write_the_pinned_file_becomes_a_recipient_buries_and_approves(weakened: Site) -> None:
    """As where no file is named: so the thief would be sealed to, and its signature taken."""
    waiting = [weakened.matched() for _ in range(5)]
    weakened.decide("approve", weakened.matched())
    give(weakened.user, weakened.folder / "pinned")
    assert becomes_a_recipient(weakened)
    # What is in the row alone stays here too.
    buried = [weakened.matched() for _ in range(2)]
    assert buries(weakened, buried)
    assert weakened.state(buried[0]) == "rejected"
    assert weakened.gate.client("report").get(f"/v1/reports/{buried[1]}").status_code == 404
    with weakened.working():
        assert approves(weakened, waiting)


@on_sqlite
def test_where_nobody_remembers_the_log_it_can_be_written_anew(weakened: Site) -> None:
    """Neither the worker nor an auditor: so the theft is whole, and nothing but memory shows it."""
    taken_back, to_swap = weakened.matched(UNCERTAIN), weakened.matched(UNCERTAIN)
    weakened.decide("approve", taken_back)
    weakened.decide("reject", taken_back, "--reason", "a logo")
    assert swaps(weakened, to_swap, quietly=True)
    weakened.steal("replay", taken_back)
    assert not Path(f"{weakened.worker_key}.seen").exists()
    with weakened.working():
        wait_for(lambda: weakened.is_filed(taken_back))
