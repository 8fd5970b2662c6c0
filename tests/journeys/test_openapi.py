"""The OpenAPI document, held against a gate that runs."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from app.settings import StoreSettings
from tests.gates import RunningGate, fill_bank, make_unlimited_key, prepare, running_gate
from tests.journeys.conftest import BANKED
from tests.worlds import MediaHost, NameServer

REPOSITORY = Path(__file__).resolve().parents[2]
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
EXAMPLES_OF_EACH = 10
LIMIT_SECONDS = 240
"""Several times what one run takes; more would be a request that is never answered."""
SEED = 20261122


def configuration(urls: list[str]) -> str:
    """``schemathesis.toml``: half of the URLs lead somewhere, the others nowhere."""
    drawn = '{ dictionary = "urls", probability = 0.5 }'
    return f"""
hooks = "tests.journeys.openapi_hooks"

[dictionaries.urls]
values = {json.dumps(urls)}

[parameters]
"body.url" = {drawn}
"query.url" = {drawn}
"""


def run_schemathesis(gate: RunningGate, token: str, host: MediaHost, folder: Path, *options: str) -> None:
    """All checks, in all phases, with the configuration in a folder."""
    run = subprocess.run(
        [
            SCHEMATHESIS,
            "run",
            f"{gate.url}/openapi.json",
            f"--header=Authorization: Bearer {token}",
            f"--max-examples={EXAMPLES_OF_EACH}",
            f"--seed={SEED}",
            "--generation-database=none",
            "--request-timeout=30",
            "--no-color",
            *options,
        ],
        cwd=folder,
        env={"PATH": "", "PYTHONPATH": str(REPOSITORY), "PICTURE_URL": host.url("/harmless.jpg")},
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_SECONDS,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]


def test_the_live_document_is_complete_and_true(tmp_path: Path, host: MediaHost) -> None:
    """No 5xx, nothing undocumented, and no promise of the document that the gate does not keep."""
    prepared = asyncio.run(prepare(StoreSettings(state_dir=tmp_path / "state")))
    urls = [host.url(path) for path in ("/banked.png", "/flat.png", "/words.jpg")]
    (tmp_path / "schemathesis.toml").write_text(configuration(urls))
    with NameServer({}) as names, running_gate(prepared, fetch_resolver=names.address) as gate:
        fill_bank(gate, "mock-list", BANKED)
        token = asyncio.run(make_unlimited_key(gate))
        # A bank that was emptied makes a gate unready, so banks come last.
        run_schemathesis(gate, token, host, tmp_path, "--exclude-path-regex=^/v1/banks")
        run_schemathesis(gate, token, host, tmp_path, "--include-path-regex=^/v1/banks")
