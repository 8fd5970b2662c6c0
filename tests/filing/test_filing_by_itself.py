"""What a worker files with nobody looking, and what it leaves: real gate, worker and double over sockets."""

import asyncio
import json
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from app.custody.identity import generate, write_identity
from app.custody.roster import WorkerKeys
from app.report.seal import open_report
from app.settings import StoreSettings
from demo.pictures import encoded, scene
from tests.filing.double import Double
from tests.filing.office import REPORTING
from tests.filing.working import running_worker
from tests.gates import START_SECONDS, RunningGate, prepare, running_gate, signals_of, wait_for
from tests.pins import pins_of

WITHIN: Final = 6
FLOOD: Final = 2

Edit = Callable[[Image.Image], Image.Image]


def _as_it_is(picture: Image.Image) -> Image.Image:
    return picture


def _blurred(picture: Image.Image) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(30))


def _on_a_border(picture: Image.Image) -> Image.Image:
    return ImageOps.expand(picture, 120, (250, 250, 250))


LISTED: Final[dict[str, tuple[int, int, Edit, Edit]]] = {
    # The seed of a scene, how many bits of its PDQ are changed in the list, and what is listed and handed in.
    "beyond the distance": (13, WITHIN + 1, _as_it_is, _as_it_is),
    "poor": (20, 0, _blurred, _blurred),
    "mirrored": (10, 0, _as_it_is, ImageOps.mirror),
    "negative": (11, 0, _as_it_is, ImageOps.invert),
    "a part of it": (12, 0, _as_it_is, _on_a_border),
    "beside something harmless": (14, 4, _as_it_is, _as_it_is),
    "disputed": (15, 2, _as_it_is, _as_it_is),
    "near": (8, WITHIN, _as_it_is, _as_it_is),
    "near, by the quick door": (9, WITHIN - 1, _as_it_is, _as_it_is),
}
CERTAIN: Final = {"near", "near, by the quick door", "the very bytes"}
BYTES: Final = encoded(scene(7), "PNG")

FLOODING: Final = scene(33)
ALIKE: Final = [
    encoded(Image.blend(FLOODING, scene(seed), share), "PNG")
    for seed, share in ((40, 0.2), (41, 0.25), (43, 0.15))
]
"""Pictures that an entry matches near, and that are not near each other: so many that it is parked."""


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_only_what_is_certain_is_filed_by_itself_and_all_else_waits_for_a_person(
    store: StoreSettings, double: Double
) -> None:
    """What waits is never seen at the double, though the worker looked at all that was sealed to it."""
    prepared = asyncio.run(prepare(store))
    settings: dict[str, Any] = {
        "autofile": "true",
        "autofile_distance": str(WITHIN),
        "flood_media": str(FLOOD),
        "cybertip": "double",
        "cybertip_double_url": double.url,
        **REPORTING,
    }
    worker, key = generate(), store.state_dir.parent / "own.key"
    write_identity(worker, key)
    with running_gate(prepared, **settings) as gate:
        pins = pins_of(store)
        pins.write(replace(pins.read(), worker=WorkerKeys.of(worker)))
        _list(gate)
        waiting = _flooded(gate)
        found = {"test": _handed_in(gate, encoded(scene(16), "PNG"))}
        for name, (seed, _, _, handed_in) in LISTED.items():
            picture, quick = handed_in(scene(seed)), name.endswith("quick door")
            file = encoded(picture, "JPEG", quality=95) if quick else encoded(picture, "PNG")
            found[name] = _handed_in(gate, file, **({"answer": "status"} if quick else {}))
        found["the very bytes"] = _handed_in(gate, BYTES)
        assert _state(gate, waiting["flooded"]) == "parked"
        with running_worker(store, **settings, filing_identity=str(key)) as process:
            wait_for(lambda: {_state(gate, found[name]) for name in CERTAIN} == {"dry_run"})
            process.send_signal(signal.SIGTERM)
            assert process.wait(START_SECONDS) == 0
        for name, report_id in (found | waiting).items():
            told, state = double.tell(report_id), _state(gate, report_id)
            if name in CERTAIN:
                assert (told["filed_exactly_once"], told["opened"], state) == (True, 1, "dry_run"), name
            else:
                expected = "parked" if name == "flooded" else "queued"
                assert (told["opened"], state) == (0, expected), name
        # A quick look concludes nothing but clear: what was filed is what a close look saw.
        (match,) = _opened(gate, found["near, by the quick door"])["matches"]
        assert match["query_value"] == signals_of(encoded(scene(9), "JPEG", quality=95))[1]["value"]
        suppressed = _opened(gate, found["beside something harmless"])["matches"][0]
        assert (suppressed["distance"], len(suppressed["suppressors"])) == (4, 1)
        disputed = _opened(gate, found["disputed"])
        assert (disputed["matches"][0]["distance"], disputed["automatic_filing"]) == (2, True)
    log = (store.state_dir / "worker.log").read_text()
    left = [json.loads(line) for line in log.splitlines() if '"left_to_a_person"' in line]
    assert [(each["report"], each["cause"]) for each in left] == [(found["disputed"], "not_certain")]


def _list(gate: RunningGate) -> None:
    """Fill the banks, each entry by the PDQ of a picture with some bits changed."""
    bank = gate.client("all")

    def make(name: str, **policy: Any) -> None:
        bank.put(f"/v1/banks/{name}", json={"action": "report", **policy}).raise_for_status()

    def give(name: str, signals: list[dict[str, str]], **origin: str) -> None:
        body = {"signals": signals, **origin}
        bank.post(f"/v1/banks/{name}/signals", json=body).raise_for_status()

    make("list", kind="csam")
    make("trial", kind="test")
    make("harmless", kind="other", action="suppress")
    for name, (seed, bits, listed, _) in LISTED.items():
        entry = _pdq(listed(scene(seed)), bits)
        for source, classification in (("hotline", "A1"), ("police", "B2")):
            told = "A1" if name != "disputed" else classification
            give("list", entry, source=source, classification=told)
    give("list", [*signals_of(BYTES)[:1], *_pdq(FLOODING, 0)])
    give("trial", signals_of(encoded(scene(16), "PNG")))
    give("harmless", _pdq(scene(LISTED["beside something harmless"][0]), 0))
    # What came last is in force after all else.
    last = encoded(scene(50), "PNG")
    give("trial", signals_of(last))
    wait_for(lambda: _verdict(gate, last) == "match")


def _flooded(gate: RunningGate) -> dict[str, str]:
    """Reports of an entry that matched so much that the flood guard parks it: those before, and one after."""
    found = {f"flooding {number}": _handed_in(gate, picture) for number, picture in enumerate(ALIKE)}

    def is_parked() -> bool:
        status = gate.client("ops").get("/v1/status").json()
        return any(each["kind"] == "bank_entry_parked" for each in status["alarms"])

    wait_for(is_parked)
    wait_for(lambda: _state(gate, _handed_in(gate, encoded(FLOODING, "PNG"))) == "parked")
    return found | {"flooded": _handed_in(gate, encoded(FLOODING, "PNG"))}


def _pdq(picture: Image.Image, bits: int) -> list[dict[str, str]]:
    """The signal of a picture, with so many bits of its PDQ changed."""
    value = signals_of(encoded(picture, "PNG"))[1]["value"]
    changed = np.unpackbits(np.frombuffer(bytes.fromhex(value), np.uint8))
    changed[:bits] ^= 1
    return [{"type": "pdq", "value": np.packbits(changed).tobytes().hex()}]


def _verdict(gate: RunningGate, picture: bytes) -> str:
    answer = gate.client().post("/v1/ingest", content=picture, headers={"Content-Type": "image/png"})
    return str(answer.json()["verdict"])


def _handed_in(gate: RunningGate, picture: bytes, **query: str) -> str:
    """The id of the report of an upload by an account of its own, which joins no other."""
    before = _reports(gate)
    said = json.dumps({"account_id": str(len(before))})
    parts: Any = {"media": ("p", picture, "image/png"), "context": (None, said)}
    answered = gate.client().post("/v1/ingest", params=query, files=parts)
    assert answered.status_code in {200, 204, 451}, answered.text
    (report_id,) = _reports(gate) - before
    return report_id


def _reports(gate: RunningGate) -> set[str]:
    listed = gate.client("report").get("/v1/reports", params={"limit": 1000}).json()["reports"]
    return {each["id"] for each in listed}


def _state(gate: RunningGate, report_id: str) -> str:
    return str(gate.client("report").get(f"/v1/reports/{report_id}").json()["state"])


def _opened(gate: RunningGate, report_id: str) -> dict[str, Any]:
    """What a custodian reads in a report."""
    sealed = gate.client("report").get(f"/v1/reports/{report_id}/sealed").content
    return open_report(sealed, gate.prepared.custodians[0], report_id=report_id)
