"""Filing under torture: schedules of kills, faults, races and jumping clocks, drawn from a seed.

    python -m tests.filing.torture --schedules 3000

In each schedule a few reports, which a custodian approved or the workers approve by themselves, are filed by
two workers with a clock each, while one of them is killed at some await, the database fails before or after a
commit, the double spoils answers or refuses, clocks jump, a lease ends in the middle of a call while the
other worker takes over, and a custodian takes an approval back, and maybe gives it again. A parked report is
tried again, opened afresh, filed by hand, approved anew or rejected, mostly after the authority was asked.
Then all is well again for long enough, and each report must be finished exactly once at the double, with the
very bytes that were approved; or be rejected or retracted, and not be finished there; or be parked, if there
was a reason, and then mostly a custodian brings it to an end. Never lost, and never twice but where a
custodian signed afresh without knowing better, and then never more often than that was signed.

On the way, too, nothing may be done that ends well by luck alone: ``tests.filing.judging`` has what.

The first schedules let nothing else go wrong than one thing: a kill, at each await in turn, of the filing of
what a custodian approved, of an automatic approval with its filing, and of a withdrawal; a worker that stops
at each of its steps in turn until another was there; a call that is answered otherwise than it should be.
What all this finds is shown in ``test_torture``, by bugs that are planted.

What goes wrong follows from the seed. How the threads of database drivers interleave within that does not.
"""

import argparse
import asyncio
import contextlib
import itertools
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from app.custody.decision import Action
from app.errors import ConflictError
from app.filing.cybertip.environment import Environment
from app.filing.cybertip_double.application import Fault, Planned
from app.filing.cybertip_double.service import State as There
from app.report.outbox import SealedOutbox
from app.settings import StoreSettings
from app.store.database import Database
from app.store.reports import decisions, filing_log, filing_orders
from app.store.reports.filings import LEASE, LONGEST_PAUSE
from app.store.reports.report_states import State
from app.store.reports.shelf import ReportShelf
from tests.chain import verify_chain
from tests.deciding import deciding, seen
from tests.filing.disturbed import AUTOMATIC_WITHIN, Worker, workers
from tests.filing.judging import PARKING, RETRIED
from tests.filing.office import Office, open_office
from tests.stubs import stub

FILED: Final = "a report that a custodian approved is filed"
AUTOMATIC: Final = "a report is approved by the worker itself, and filed"
WITHDRAWN: Final = "a report is withdrawn that was opened and then rejected"
AWAITS: Final = {FILED: 260, AUTOMATIC: 340, WITHDRAWN: 160}
"""Turns, and more awaits than they have."""

TURNS: Final = [(turn, kill_at + 1) for turn, awaits in AWAITS.items() for kill_at in range(awaits)]
KILLS: Final = len(TURNS)
"""So many schedules have nothing but a kill: at each await of each turn."""

HARMLESS: Final = sorted(set(Fault) - {Fault.SLOW, Fault.NO_REPORT_ID, Fault.REDIRECT})

TWICE: Final = "filed more than once, as a custodian let it be"

STEPS: Final = 14
"""More than a turn has transactions and calls."""
MEANWHILE: Final = ("nothing", "approved anew", "rejected", "a day goes by")
OTHERS: Final = ("nobody", "whole", Fault.UNHEARD, Fault.UNANSWERED)
"""How the turn of the other worker ends, if it takes one."""
OVERTAKEN: Final = list(itertools.product(range(1, STEPS + 1), MEANWHILE, OTHERS))
INTERLEAVED: Final = list(itertools.product(range(1, STEPS + 1), repeat=2))
"""In these schedules one worker stops before each of its transactions and calls in turn, until its lease is
over. Something happens meanwhile, and the other one has its turn; or that stops too, before each of its own,
until the first is done."""

ANSWERED: Final = [
    (call, how, hours)
    for call, how, hours in itertools.product(
        ("submit", "finish", "retract", "retract too late"), (*HARMLESS, *RETRIED, *PARKING), (0, 1000, -1000)
    )
    # That it is retracted already is the one answer that nobody has a reason to doubt.
    if (call, how) != ("retract too late", 5101)
]
"""In these, one call is answered otherwise than it should be, by a fault or a code, to a worker whose clock
is so many hours ahead then."""

KINDS: Final = list(itertools.accumulate([len(TURNS), len(OVERTAKEN), len(INTERLEAVED), len(ANSWERED)]))
QUIET: Final = KINDS[-1]
"""So many schedules have nothing but one thing that goes wrong: kills first, then as above."""


DECIDED: Final = frozenset({Action.APPROVE, Action.APPROVE_AUTOMATICALLY, Action.REJECT})
"""Which of the decisions say whether a report is to be filed."""


@dataclass
class Signed:
    """What a custodian signed for in a schedule, by report.

    Attributes:
        twice: how often one was let be filed though it may have been already, or a call was in the air.
        by_hand: how often the authority had it when it was said to be filed by hand, and may have it then.
    """

    twice: Counter[str] = field(default_factory=Counter)
    by_hand: Counter[str] = field(default_factory=Counter)


async def torture(office: Office, pair: tuple[Worker, Worker], seed: int) -> Counter[str]:
    """Run one drawn schedule and check what is left behind; how often the reports ended in which way.

    Args:
        office: where reports are approved.
        pair: who files them.
        seed: of all that goes wrong.
    """
    drawn = random.Random(seed)
    reports = [
        await _found(office, f"{seed}-{number}", automatic=drawn.random() < 1 / 3)
        for number in range(drawn.choice((1, 1, 2, 3)))
    ]
    reasons, signed = False, Signed()
    for _ in range(drawn.randint(1, 5)):
        reasons |= await _go_wrong(office, pair, reports, drawn, signed)
    if drawn.random() < 0.5:
        # The clocks were wrong, and are set right.
        for worker in pair:
            worker.clock.ahead = timedelta()
    look_after = drawn.random() < 2 / 3
    return await _ended(office, pair, reports, signed, reasons=reasons, look_after=look_after)


async def killed(office: Office, pair: tuple[Worker, Worker], seed: int) -> Counter[str]:
    """Kill one turn at one await, and let nothing else go wrong; how the report ended.

    Args:
        office: where it is approved.
        pair: who files it.
        seed: which of ``TURNS`` it is.
    """
    turn, kill_at = TURNS[seed]
    report_id = await _found(office, str(seed), automatic=turn == AUTOMATIC)
    if turn == WITHDRAWN:
        office.double.plan.append(Planned("finish", Fault.UNHEARD))
        await pair[0].turn()
        await office.reject(report_id)
    await pair[0].turn(kill_at)
    ends = await _ended(office, pair, [report_id], Signed(), reasons=False, look_after=False)
    expected = "retracted" if turn == WITHDRAWN else "filed exactly once"
    assert ends[expected] == 1, f"{ends}, not {expected}"
    return ends


async def overtaken(office: Office, pair: tuple[Worker, Worker], seed: int) -> Counter[str]:
    """Stop one worker until its lease is over, and let nothing else go wrong; how the report ended.

    Args:
        office: where it is approved.
        pair: who files it.
        seed: which of ``OVERTAKEN`` it is.
    """
    slow, quick = pair
    step, happening, other = OVERTAKEN[seed]
    report_id = await office.approved(f"overtaken {seed}")

    async def meanwhile() -> None:
        if happening == "approved anew":
            await _approve_anew(office, report_id)
        elif happening == "rejected":
            await _reject(office, report_id)
        elif happening == "a day goes by":
            # The slow one's clock stands.
            office.double.service.advance(timedelta(hours=25))
            quick.clock.ahead += timedelta(hours=25)
        if isinstance(other, Fault):
            office.double.plan.append(Planned("finish", other))
        if other != "nobody":
            quick.clock.ahead += LEASE * 2
            await quick.turn()

    await slow.turn_stopped(step, meanwhile)
    reasons = happening in {"approved anew", "a day goes by"}
    return await _ended(office, pair, [report_id], Signed(), reasons=reasons, look_after=False)


async def interleaved(office: Office, pair: tuple[Worker, Worker], seed: int) -> Counter[str]:
    """Stop one worker until its lease is over and the other stops too, and then that until the first is done.

    Args:
        office: where a report is approved.
        pair: who files it.
        seed: which of ``INTERLEAVED`` it is.
    """
    slow, quick = pair
    step, other_step = INTERLEAVED[seed]
    report_id = await office.approved(f"interleaved {seed}")
    stopped, gone_on = asyncio.Event(), asyncio.Event()
    turns: list[asyncio.Task[None]] = []

    async def wait() -> None:
        stopped.set()
        await gone_on.wait()

    async def take_turn() -> None:
        await quick.turn_stopped(other_step, wait)
        stopped.set()

    async def meanwhile() -> None:
        for worker in pair:
            worker.clock.ahead += LEASE * 2
        turns.append(asyncio.create_task(take_turn()))
        await stopped.wait()

    await slow.turn_stopped(step, meanwhile)
    gone_on.set()
    await asyncio.gather(*turns)
    return await _ended(office, pair, [report_id], Signed(), reasons=False, look_after=False)


async def answered(office: Office, pair: tuple[Worker, Worker], seed: int) -> Counter[str]:
    """Answer one call otherwise than it should be, and let nothing else go wrong; how the report ended.

    Args:
        office: where it is approved.
        pair: who files it.
        seed: which of ``ANSWERED`` it is.
    """
    call, how, hours = ANSWERED[seed]
    worker, report_id = pair[0], await office.approved(f"answered {seed}")
    if call.startswith("retract"):
        late = call == "retract too late"
        office.double.plan.append(Planned("finish", Fault.UNANSWERED if late else Fault.UNHEARD))
        await worker.turn()
        await office.reject(report_id)
    planned = {"fault": how} if isinstance(how, Fault) else {"code": how}
    office.double.plan.append(Planned(call.split()[0], **planned))
    worker.clock.ahead = timedelta(hours=hours)
    await worker.turn()
    worker.clock.ahead = timedelta()
    return await _ended(office, pair, [report_id], Signed(), reasons=how in PARKING, look_after=False)


async def _found(office: Office, medium: str, *, automatic: bool) -> str:
    """The id of a report that a custodian approved, or that the workers will."""
    if not automatic:
        return await office.approved(medium)
    outbox = SealedOutbox(
        ReportShelf(office.database, None, office.pins),
        require_custodian=True,
        automatic_within=AUTOMATIC_WITHIN,
    )
    return (await outbox.commit(replace(stub(medium), place=()))).id


async def _ended(
    office: Office,
    pair: tuple[Worker, Worker],
    reports: Sequence[str],
    signed: Signed,
    *,
    reasons: bool,
    look_after: bool,
) -> Counter[str]:
    """Let all be well, and check what is left behind; how often the reports ended in which way.

    Args:
        office: where they are.
        pair: who files them.
        reports: their ids.
        signed: what a custodian signed for.
        reasons: whether something happened that may park one.
        look_after: whether a custodian asks the authority of what is parked, and brings it to an end.
    """
    await _all_is_well(office, pair)
    for worker in pair:
        assert not worker.wire.wrong, worker.wire.wrong[0]
    ends = {report: await _check(office, report, signed, reasons=reasons) for report in reports}
    parked = [report for report, end in ends.items() if end.startswith("parked")]
    if look_after and parked:
        for report in parked:
            await _bring_to_an_end(office, report, signed)
        await _all_is_well(office, pair)
        for worker in pair:
            assert not worker.wire.wrong, worker.wire.wrong[0]
        for report in parked:
            end = await _check(office, report, signed, reasons=False)
            ends[report] = f"{end}, after it was parked"
    return Counter(ends.values())


async def _bring_to_an_end(office: Office, report_id: str, signed: Signed) -> None:
    """Decide on a parked report when nothing is under way any more, by what the authority says of it."""
    decided, _ = await _decided(office, report_id)
    if _finished(office, report_id):
        await _by_hand(office, report_id, signed)
    elif decided[-1] is Action.REJECT:
        await office.reject(report_id)
    else:
        try:
            await _sign_afresh(office, report_id)
        except ConflictError:
            # Nobody tried to finish it: it takes no signature.
            await _retry(office, report_id)


async def _go_wrong(
    office: Office,
    pair: tuple[Worker, Worker],
    reports: Sequence[str],
    drawn: random.Random,
    signed: Signed,
) -> bool:
    """One or two turns with something wrong; whether it is a reason to park."""
    worker, other = drawn.sample(pair, 2)
    call = drawn.choice(("submit", "submit", "finish", "finish", "retract"))
    kill_at = drawn.randint(1, max(AWAITS.values())) if drawn.random() < 0.5 else None
    reasons = await _decide(office, worker, reports, drawn, signed)
    wrong = drawn.choice(
        (
            *("nothing", "fault", "fault", "code", "parking", "denied"),
            *("database", "jump", "lease", "race", "expiry"),
        )
    )
    match wrong:
        case "fault" | "code" | "parking" | "denied":
            reasons |= wrong in {"parking", "denied"}
            office.double.plan.extend(_planned(wrong, call, drawn))
        case "database":
            kind = drawn.choice(("before_commit", "after_commit", "statement"))
            worker.brittle.fail(kind, drawn.randint(1, 40 if kind == "statement" else 5))
        case "jump":
            worker.clock.ahead += timedelta(hours=drawn.choice((-1000, -25, -1, 1, 25, 1000)))
        case "lease":
            # The call takes longer than the lease, and the other worker takes over in the middle of it, and
            # sometimes does not come to an end either.
            async def take_over() -> None:
                other.clock.ahead = worker.clock.ahead + LEASE * 2
                worker.clock.ahead += LEASE * 2
                office.double.plan.extendleft(cut_short)
                await other.turn(other_kill_at)
                if looks_after:
                    await _look_after(office, drawn.choice(reports), drawn, signed, in_a_call=True)

            looks_after = drawn.random() < 0.5
            other_kill_at = drawn.randint(1, max(AWAITS.values())) if drawn.random() < 0.25 else None
            faults = drawn.choice(((), (), (Fault.UNANSWERED,), (Fault.UNHEARD,)))
            cut_short = [Planned("finish", fault) for fault in faults]
            worker.wire.meanwhile.append(take_over)
            if drawn.random() < 0.5:
                # In the second call, not the first.
                worker.wire.meanwhile.append(nothing)
        case "race":
            other.clock.ahead = worker.clock.ahead
            await asyncio.gather(worker.turn(kill_at), other.turn(drawn.choice((None, kill_at))))
        case "expiry":
            reasons = True
            office.double.service.advance(timedelta(hours=25))
    await worker.turn(kill_at)
    if drawn.random() < 0.5:
        worker.clock.ahead += drawn.choice((timedelta(minutes=1), LEASE, timedelta(hours=2)))
    worker.brittle.mend()
    worker.wire.meanwhile.clear()
    return reasons


def _planned(wrong: str, call: str, drawn: random.Random) -> list[Planned]:
    """What the double does to a call; ``denied`` does it, and knows nothing of it afterwards."""
    match wrong:
        case "fault":
            return [Planned(call, drawn.choice(HARMLESS))]
        case "code":
            return [Planned(call, code=drawn.choice(RETRIED), status=drawn.choice((200, 400)))]
        case _:
            # That it is retracted already is the one answer that nobody has a reason to doubt.
            codes = [code for code in PARKING if (call, code) != ("retract", 5101)]
            parking = Planned(call, code=drawn.choice(codes))
            return [Planned(call, Fault.UNANSWERED), parking] if wrong == "denied" else [parking]


async def _decide(
    office: Office, worker: Worker, reports: Sequence[str], drawn: random.Random, signed: Signed
) -> bool:
    """Sometimes a custodian acts, before the turn or in the middle of it; whether that may park."""
    report_id = drawn.choice(reports)
    acts = (
        *["nothing"] * 4,
        *("reject", "reject in a call", "reject in a call", "reject in a call"),
        *("approve", "retry in a call"),
        *["look after"] * 4,
    )
    # In the first, the second or the third.
    calls = [nothing] * drawn.randint(0, 2)
    match drawn.choice(acts):
        case "reject":
            await _reject(office, report_id)
        case "reject in a call":
            worker.wire.meanwhile.extend([lambda: _reject(office, report_id), *calls])
        case "approve":
            return await _approve_anew(office, report_id)
        case "retry in a call":
            worker.wire.meanwhile.extend([lambda: _retry(office, report_id), *calls])
        case "look after":
            for each in reports:
                await _look_after(office, each, drawn, signed, in_a_call=False)
    return False


async def _look_after(
    office: Office, report_id: str, drawn: random.Random, signed: Signed, *, in_a_call: bool
) -> None:
    """What a custodian does about a report, if it is parked, whatever the cause."""
    if (await office.report(report_id)).state is not State.PARKED:
        return
    there = bool(_finished(office, report_id))
    match drawn.choice(("afresh", "afresh", "afresh unasked", "retry", "by hand", "approve", "reject")):
        case "afresh" if not there:
            await _afresh(office, report_id, signed, knows=not in_a_call)
        case "afresh unasked":
            await _afresh(office, report_id, signed, knows=False)
        case "by hand":
            await _by_hand(office, report_id, signed, may_come=in_a_call)
        case "approve":
            await office.approve(report_id)
        case "reject" if in_a_call or not there:
            await office.reject(report_id)
        case _:
            await _retry(office, report_id)


async def _afresh(office: Office, report_id: str, signed: Signed, *, knows: bool) -> None:
    """Let it be opened anew, if that may be: the authority does not have it, or nobody knows."""
    with contextlib.suppress(ConflictError):
        await _sign_afresh(office, report_id)
        signed.twice[report_id] += not knows


async def _sign_afresh(office: Office, report_id: str) -> None:
    sealed = await seen(office.database, report_id, office.pins.read())
    await office.decide(Action.AFRESH, report_id, deciding(Action.AFRESH, report_id, sealed, office.ada))


async def _by_hand(office: Office, report_id: str, signed: Signed, *, may_come: bool = False) -> None:
    """Say that it was filed by hand: under the id that it has there, or on the authority's page."""
    sealed = await seen(office.database, report_id, office.pins.read())
    await office.decide(Action.FILED, report_id, deciding(Action.FILED, report_id, sealed, office.ada))
    signed.by_hand[report_id] = len(_finished(office, report_id)) + may_come


async def _retry(office: Office, report_id: str) -> None:
    """Let it be tried again under the id that it has, whoever has the turn."""
    with contextlib.suppress(ConflictError):
        async with office.database.begin() as connection:
            await filing_orders.retry(connection, report_id, now=datetime.now(UTC), by="cli")


def _finished(office: Office, report_id: str) -> list[str]:
    """Under which ids the authority has a report, as somebody learns who asks it."""
    return [each.id for each in office.double.service.of_sender(report_id) if each.state is There.FINISHED]


async def _reject(office: Office, report_id: str) -> None:
    """Reject a report, unless it is too late, or parked: then a person asks the authority first."""
    if (await office.report(report_id)).state is not State.PARKED:
        with contextlib.suppress(ConflictError):
            await office.reject(report_id)


async def _approve_anew(office: Office, report_id: str) -> bool:
    """Approve what was rejected or is on its way; whether it was.

    Whether the authority has what was finished before, nobody knows then: that parks.
    """
    if (await office.report(report_id)).state not in {State.SUBMITTED, State.REJECTED, State.RETRACTED}:
        return False
    await office.approve(report_id)
    return True


async def nothing() -> None:
    """Nothing happens."""


async def _all_is_well(office: Office, pair: tuple[Worker, Worker]) -> None:
    """Nothing goes wrong any more, and time goes by, until nothing is left to be done."""
    office.double.plan.clear()
    latest = max(timedelta(), *(worker.clock.ahead for worker in pair))
    idle = 0
    for round_ in range(40):
        for worker in pair:
            worker.clock.ahead = latest + timedelta(hours=13) * round_
        idle = idle + 1 if await pair[round_ % 2].turn() is None else 0
        if idle * timedelta(hours=13) > LONGEST_PAUSE:
            # Longer than a wrong clock can have put anything off.
            break
    else:
        message = "there is no end to it"
        raise AssertionError(message)
    for worker in pair:
        worker.clock.ahead = timedelta()


async def _check(office: Office, report_id: str, signed: Signed, *, reasons: bool) -> str:
    """How a report ended.

    Raises:
        AssertionError: it was filed more often than a custodian signed for, lost, changed, withdrawn unasked,
            parked without a reason, or filed without a word in the log.
    """
    report, there = await office.report(report_id), office.double.service.of_sender(report_id)
    decided, approved = await _decided(office, report_id)
    finished, may_be = _finished(office, report_id), 1 + signed.twice[report_id]
    assert len(finished) <= may_be, f"filed {len(finished)} times"
    assert {each.document for each in there} <= approved, "other bytes than the approved"
    assert set(finished) <= await _attempted(office, report_id), "filed, and the log does not tell"
    once = "filed exactly once" if len(finished) == 1 else TWICE
    rejected = decided[-1] is Action.REJECT
    if report.state is State.FILED:
        filing = await office.filing(report_id)
        assert filing.authority_report_id in finished, "said to be filed, and is not under this id"
        assert filing.receipt is not None, "no receipt"
        return once + (", before it was rejected" if rejected else "")
    if report.state is State.FILED_MANUALLY:
        assert len(finished) <= signed.by_hand[report_id], "filed by hand, and then by a worker"
        return f"filed by hand ({'it was there' if finished else 'it was not there'})"
    if report.state in {State.REJECTED, State.RETRACTED}:
        assert rejected, f"{report.state} unasked"
        assert not finished, f"said to be {report.state}, and is filed"
        return report.state.value
    assert report.state is State.PARKED, f"lost: {report.state}"
    assert report.cause is not None, "parked without a cause"
    assert reasons, f"parked for nothing: {report.cause}"
    return f"parked ({'filed' if finished else 'not filed'}): {report.cause}"


async def _attempted(office: Office, report_id: str) -> set[str]:
    """Under which ids it was about to be finished, as the log has it."""
    async with office.database.connect() as connection:
        steps = await filing_log.steps(connection, report_id)
    return {
        each.authority_report_id for each in steps if each.step == "finishing" and each.authority_report_id
    }


async def _decided(office: Office, report_id: str) -> tuple[list[Action], set[bytes]]:
    """What was decided on filing it, in order, and every XML that was approved."""
    async with office.database.connect() as connection:
        signed = await decisions.every(connection, report_id, office.pins.read())
    xml = [each.decision.xml for each in signed if each.decision.xml is not None]
    actions = [each.decision.action for each in signed if each.decision.action in DECIDED]
    return actions, {office.ada.decrypt(each) for each in xml}


async def run(
    store: StoreSettings, seeds: Sequence[int], tell: Callable[[int], None] | None = None
) -> Counter[str]:
    """Run some schedules on a migrated database; those below ``QUIET`` have one thing go wrong."""
    ends: Counter[str] = Counter()
    database = Database.open(store)
    try:
        async with (
            open_office(database, store, environment=Environment.PRODUCTION) as office,
            workers(office, store) as pair,
        ):
            for seed in seeds:
                try:
                    ends += await _schedule(office, pair, seed)
                except AssertionError as error:
                    message = f"seed {seed}: {error}"
                    raise AssertionError(message) from error
                if tell is not None:
                    tell(seed)
            async with database.connect() as connection:
                assert await verify_chain(connection) is None, "the audit chain is broken"
    finally:
        await database.close()
    return ends


async def _schedule(office: Office, pair: tuple[Worker, Worker], seed: int) -> Counter[str]:
    """The schedule of a seed."""
    begins = 0
    for ends, kind in zip(KINDS, (killed, overtaken, interleaved, answered), strict=True):
        if seed < ends:
            return await kind(office, pair, seed - begins)
        begins = ends
    return await torture(office, pair, seed)


async def _main(schedules: int, first: int, database_url: str | None) -> None:
    logging.disable(logging.CRITICAL)
    began = time.monotonic()
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="cordon-torture-") as folder:
        # A file has a hundred schedules behind it at most, so that reading it stays quick.
        at_once = 100 if database_url is None else schedules
        for begin in range(first, first + schedules, at_once):
            store = StoreSettings(state_dir=Path(folder) / str(begin), database_url=database_url)
            database = Database.open(store)
            await database.migrate_if_empty()
            await database.close()

            def tell(seed: int) -> None:
                done = seed - first + 1
                sys.stderr.write(f"\r{done} of {schedules} schedules, {time.monotonic() - began:.0f} s")

            ends += await run(store, range(begin, min(begin + at_once, first + schedules)), tell)
    lines = [f"{count:6}  {end}" for end, count in ends.most_common()]
    twice = sum(count for end, count in ends.items() if end.startswith(TWICE))
    unasked = f"nothing is filed twice but {twice}, for which a custodian signed without having asked"
    lines.append(
        f"{schedules} schedules in {time.monotonic() - began:.0f} s: nothing is lost, and "
        f"{unasked if twice else 'nothing is filed twice'}"
    )
    sys.stdout.write("\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="File under torture.")
    parser.add_argument("--schedules", type=int, default=3000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--database-url", help="an empty PostgreSQL database; SQLite by default")
    given = parser.parse_args()
    asyncio.run(_main(given.schedules, given.first, given.database_url))
