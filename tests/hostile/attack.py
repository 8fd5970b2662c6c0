"""One hostile medium to a real gate, and what must hold of its answer whatever the medium was."""

import json
import time
from dataclasses import dataclass
from typing import Any

import httpx

from tests.gates import RunningGate

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


def warnings_of(gate: RunningGate) -> list[str]:
    """The events of the gate's log that tell of something that must not happen, each with how it did."""
    expected = {"fetch_allow_is_set", "few_custodians"}
    lines = (json.loads(line) for line in gate.log.read_text().splitlines())
    return [
        f"{line['event']} {line.get('how', '')}"
        for line in lines
        if line["level"] not in {"debug", "info"} and line["event"] not in expected
    ]
