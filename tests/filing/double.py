"""The double as a user runs it: ``cordon dev cybertip-double``, a process on a socket."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from tests.gates import CORDON

_NAMED: Final = os.environ.get("CORDON_TEST_XSD")
XSD: Final = Path(_NAMED or Path(__file__).parents[3] / "shared/data/ncmec/cybertip.xsd")
"""NCMEC's schema, which comes with credentials and under no licence, so that it cannot be part of this."""
if _NAMED and not XSD.exists():
    # Whoever names a schema wants the tests of it run, and not left out.
    raise FileNotFoundError(f"CORDON_TEST_XSD names {XSD}, and there is no such file")


@dataclass(frozen=True)
class Double:
    """A running double, and how it is steered.

    Attributes:
        url: the base of its calls.
    """

    url: str
    steering: httpx.Client

    def fault(self, call: str, **planned: Any) -> None:
        """Let the next of a call go wrong."""
        self.steering.post("/double/faults", json={"call": call, **planned}).raise_for_status()

    def advance(self, seconds: float) -> None:
        """Move its clock."""
        self.steering.post("/double/clock", json={"advance_seconds": seconds}).raise_for_status()

    def tell(self, sender_id: str) -> dict[str, Any]:
        """What came of a report of the sender."""
        told: dict[str, Any] = self.steering.get(f"/double/reports/{sender_id}").json()
        return told


@contextlib.contextmanager
def running_double(*options: str) -> Iterator[Double]:
    """Start the command on a free port, and end it."""
    process = subprocess.Popen(
        [CORDON, "dev", "cybertip-double", "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={key: value for key, value in os.environ.items() if not key.startswith("CORDON_")},
    )
    assert process.stdout is not None
    try:
        url = process.stdout.readline().decode().strip()
        assert url.startswith("http://127.0.0.1:")
        with httpx.Client(base_url=url.removesuffix("/ispws"), trust_env=False, timeout=60) as steering:
            yield Double(url, steering)
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()
