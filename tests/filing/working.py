"""The worker as it runs: a process beside a gate."""

import contextlib
import subprocess
from collections.abc import Iterator

from app.settings import StoreSettings
from tests.gates import CORDON, environment


@contextlib.contextmanager
def running_worker(store: StoreSettings, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """``cordon worker`` with a log beside its state; killed in the end."""
    with (store.state_dir / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [CORDON, "worker"], env=environment(store, log_level="info", **settings), stderr=log
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)
