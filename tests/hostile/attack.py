"""A real gate to attack, and what must hold of its answer to a hostile medium, whatever that was."""

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from app.settings import StoreSettings
from app.store import keys
from app.store.database import Database
from tests.gates import Prepared, RunningGate, fill_bank, prepare, running_gate

KEYS = ["id", "verdict", "disposition", "reason", "media", "signals", "matches", "report"]

REASONS = {
    *("empty", "unsupported_format", "corrupt", "too_many_pixels", "too_many_frames", "low_quality"),
    *("decode_timeout", "scan_timeout", "decoder_failed", "no_bank"),
}

SLACK_SECONDS = 5
"""What an answer may take beyond the time for decoding: the upload and a new decoder, on a busy machine."""


@dataclass(frozen=True)
class Outcome:
    """What came of a medium.

    Attributes:
        told: ``clear``, ``match``, or the reason why it is undecidable.
        seconds: from the first byte sent to the whole answer.
    """

    told: str
    seconds: float
    answer: dict[str, Any]


@contextlib.contextmanager
def attacked_gate(
    folder: Path,
    banked: bytes,
    *,
    wrapper: tuple[str, ...] = (),
    decoders: int = 1,
    decode_seconds: int = 10,
    disabled_formats: str = "",
) -> Iterator[RunningGate]:
    """A gate whose bank holds a picture, and whose ingest key may ask as often as it can."""
    prepared = asyncio.run(_prepare(StoreSettings(state_dir=folder / "state")))
    with running_gate(
        prepared,
        wrapper=wrapper,
        log_level="warning",
        decoders=str(decoders),
        decode_seconds=str(decode_seconds),
        disabled_formats=disabled_formats,
    ) as gate:
        fill_bank(gate, "mock-list", banked)
        yield gate


async def _prepare(store: StoreSettings) -> Prepared:
    prepared = await prepare(store)
    database = Database.open(store)
    try:
        async with database.begin() as connection:
            _, token = await keys.create(
                connection,
                name="attacker",
                scopes=frozenset({keys.Scope.INGEST}),
                rate_per_second=100_000,
                probe_guard=False,
            )
    finally:
        await database.close()
    return replace(prepared, tokens={**prepared.tokens, "ingest": token})


def send(client: httpx.Client, content: bytes) -> Outcome:
    """Have a medium decided.

    Raises:
        AssertionError: the answer is none of the contract's.
    """
    began = time.monotonic()
    answer = client.post("/v1/ingest", content=content, headers={"Content-Type": "image/png"})
    seconds = time.monotonic() - began
    assert answer.status_code == httpx.codes.OK, f"answered {answer.status_code}"
    body: dict[str, Any] = answer.json()
    assert list(body) == KEYS
    verdict, reason, disposition = body["verdict"], body["reason"], body["disposition"]
    assert answer.headers["cordon-verdict"] == verdict
    if verdict == "undecidable":
        assert reason in REASONS
        assert disposition == "withheld"
    else:
        assert verdict in {"clear", "match"}
        assert reason is None
        assert disposition == "dropped"
    assert (body["signals"] is not None) == (verdict == "clear")
    assert (body["matches"] is not None) == (verdict == "match")
    assert (body["report"] is not None) == (verdict == "match")
    assert verdict != "clear" or body["media"] is not None
    return Outcome(reason or verdict, seconds, body)


def send_for_status(client: httpx.Client, content: bytes) -> Outcome:
    """Have a medium decided and no hash told, so that a quick look may be enough.

    Raises:
        AssertionError: the answer is none of the contract's.
    """
    began = time.monotonic()
    answer = client.post(
        "/v1/ingest", content=content, headers={"Content-Type": "image/png"}, params={"answer": "status"}
    )
    seconds = time.monotonic() - began
    verdict = {204: "clear", 451: "match", 422: "undecidable"}.get(answer.status_code)
    assert verdict is not None, f"answered {answer.status_code}"
    assert answer.headers["cordon-verdict"] == verdict
    assert answer.content == b""
    return Outcome(f"{verdict}, as status", seconds, {})


def check_unharmed(gate: RunningGate) -> None:
    """To be asked after the attack, when the gate has ended.

    Raises:
        AssertionError: it did not end as told, or its log tells of what must not happen. A decoder may be
            slow or want too much memory; one that crashes or lies has met a mistake of ours.
    """
    assert gate.process.returncode == 0
    assert warnings_of(gate) == []


def warnings_of(gate: RunningGate) -> list[str]:
    """The events of the gate's log that tell of something that must not happen, each with how it did."""
    expected = {"fetch_allow_is_set", "few_custodians", "custodians_pinned_at_first_start"}
    lines = (json.loads(line) for line in gate.log.read_text().splitlines())
    return [
        f"{line['event']} {line.get('how', '')}"
        for line in lines
        if line["level"] not in {"debug", "info"} and line["event"] not in expected
    ]
