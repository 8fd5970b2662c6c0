"""A gate that leaks in every way: ``python leaky.py FOLDER CORDON serve ...`` patches Cordon and runs it.

It exists to be found out: the search that finds nothing in Cordon must find each of these leaks.
"""

import asyncio
import base64
import hashlib
import io
import mmap
import os
import socket
import sqlite3
import subprocess
import sys
import syslog
import tempfile
import threading
import zlib
from collections.abc import Callable
from itertools import count
from logging import getLogger
from pathlib import Path

from PIL import Image

from app.cli.main import main
from app.fetch.client import Fetcher
from app.hashing.sandbox import Sandbox
from app.media import Provenance, Scan, VariantKind
from app.metrics import Metrics
from app.quarantine import QuarantinedMedia

FOUND_AS = {
    "a file": r"/a-file: written: a medium as bytes",
    "a file that was left": r"/a-file: left: a medium as bytes",
    "a temporary file": r"/temporary-\w+: written: a medium as bytes",
    "a file without a name": r"/leaks/(#\d+|tmp\w+): written: a medium as bytes",
    "a file that another thread writes": r"/a-thread: written: a medium as bytes",
    "a file that another program writes": r"/a-program: written: a medium as bytes",
    "another program": r"/tee: executed",
    "deflated": r"/deflated: written: a medium as bytes",
    "in base64": r"/base64: written: a medium as bytes, in base64",
    "decoded": r"/pixels: written: a medium as RGB pixels",
    "a mapped file": r"/mapped: mapped to write",
    "by sendfile": r"/by-sendfile: sendfile to a file",
    "by splice": r"/by-splice: splice to a file",
    "a hash in a column": r"columns: told: sha256 of ",
    "a hash in the database file": r"/cordon\.db-wal: written: sha256 of ",
    "a link's target": r"a name: written: path as it is",
    "a log line": r"log: told: host as it is",
    "a metric": r"/metrics: told: query as it is",
    "the system's log": r"unix datagrams: connected",
    "a strange host": r"127\.0\.0\.1:9: connected",
}
"""Way → how the search tells of it."""

_LOCK_SECONDS = 60.0

_folder = Path()
_metrics: list[Metrics] = []
_links = count()
_one_at_a_time = threading.Lock()


def leak_medium(media: QuarantinedMedia) -> None:
    """Write a medium to files by every call there is for it.

    For a thread: the gate must go on meanwhile, since a lock of its database may have to be waited for.
    """
    with _one_at_a_time:
        _leak_medium(media)


def _leak_medium(media: QuarantinedMedia) -> None:
    content = media.read(0, media.size)
    (_folder / "a-file").write_bytes(content)
    with tempfile.NamedTemporaryFile(prefix="temporary-", dir=_folder) as file:
        file.write(content)
    with tempfile.TemporaryFile(dir=_folder) as unnamed:
        unnamed.write(content)
    thread = threading.Thread(target=(_folder / "a-thread").write_bytes, args=(content,))
    thread.start()
    thread.join()
    subprocess.run(["tee", _folder / "a-program"], input=content, stdout=subprocess.DEVNULL, check=True)
    (_folder / "deflated").write_bytes(zlib.compress(content))
    (_folder / "base64").write_bytes(base64.b64encode(content))
    _leak_pixels(content)
    with (_folder / "mapped").open("w+b") as file:
        file.truncate(media.size)
        with mmap.mmap(file.fileno(), media.size) as mapped:
            mapped[:] = content
    with (_folder / "by-sendfile").open("wb") as file:
        os.sendfile(file.fileno(), media.fd, 0, media.size)
    with (_folder / "by-splice").open("wb") as file:
        read, write = os.pipe()
        os.splice(media.fd, write, 4096, offset_src=0)
        os.splice(read, file.fileno(), 4096)
    _leak_into_database(hashlib.sha256(content).hexdigest())


def leak_url(url: str) -> None:
    """Tell a URL to everyone who may read."""
    (_folder / f"link-{next(_links)}").symlink_to(url)
    getLogger("app.leaky").warning(url)
    _metrics[0].failed(url)
    syslog.syslog(url)
    with socket.socket() as stranger:
        stranger.connect_ex(("127.0.0.1", 9))


def _leak_pixels(content: bytes) -> None:
    try:
        picture = Image.open(io.BytesIO(content))
        (_folder / "pixels").write_bytes(picture.convert("RGB").tobytes())
    except OSError:
        # Some media are no pictures.
        return


def _leak_into_database(word: str) -> None:
    file = Path(os.environ.get("CORDON_STATE_DIR", ".cordon")) / "cordon.db"
    database = sqlite3.connect(file, timeout=_LOCK_SECONDS)
    with database:
        database.execute("UPDATE keys SET name = ? WHERE name = 'all'", (word,))
        database.execute("UPDATE keys SET name = name || ?", (word,))
    database.close()


def _patch() -> None:
    fetch = Fetcher.fetch
    scan = Sandbox.scan
    make: Callable[[Metrics], None] = Metrics.__init__

    async def leaky_fetch(self: Fetcher, untrusted_url: str, media: QuarantinedMedia) -> Provenance:
        leak_url(untrusted_url)
        return await fetch(self, untrusted_url, media)

    async def leaky_scan(
        self: Sandbox, media: QuarantinedMedia, variants: frozenset[VariantKind], *, quick: bool = False
    ) -> Scan:
        await asyncio.to_thread(leak_medium, media)
        return await scan(self, media, variants, quick=quick)

    def leaky_make(self: Metrics) -> None:
        make(self)
        _metrics.append(self)

    Sandbox.scan = leaky_scan  # type: ignore[assignment,method-assign]
    Fetcher.fetch = leaky_fetch  # type: ignore[method-assign]
    Metrics.__init__ = leaky_make  # type: ignore[method-assign]


if __name__ == "__main__":
    _folder = Path(sys.argv[1])
    del sys.argv[:2]
    _patch()
    main()
