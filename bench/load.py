"""Load on a running gate, by the public contract alone: uploads a second, how long each took, what failed.

``python -m bench.load --url http://127.0.0.1:8080 --key-file token --megapixels 1.6`` sends drawn JPEGs, or
the files of a folder, over so many kept connections, and prints throughput, p50, p90, p99 and errors. With
``--pid`` it prints how much memory the service holds. With ``--peer hma --peer-url`` it loads HMA's look-up
with the same pictures in the same run, in turns, and prints the ratios of each turn.
"""

import argparse
import io
import itertools
import json
import socket
import ssl
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httptools
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.machine import resident_bytes, stolen_share, ticks

PICTURES: Final = 8
ANSWER_SECONDS: Final = 120.0
VERDICTS: Final = {204: "clear", 451: "match", 422: "undecidable"}
MEBIBYTE: Final = 1024 * 1024


@dataclass(frozen=True)
class Service:
    """Where pictures go.

    Attributes:
        name: as it stands in the table.
        url: scheme, host and port.
        ask: the path, the headers and the body that hand one picture in.
        outcome: what an answer says of it: a verdict, or ``error ...``.
    """

    name: str
    url: str
    ask: Callable[[bytes], "Request"] = field(repr=False)
    outcome: Callable[["Answer"], str]


@dataclass(frozen=True)
class Request:
    """A picture, as it is handed in."""

    path: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def to_bytes(self, host: str) -> bytes:
        """All of it, as it goes over the connection."""
        headers = {"Host": host, **self.headers, "Content-Length": str(len(self.body))}
        lines = [f"POST {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


@dataclass
class Answer:
    """What came back, as it comes: ``httptools`` calls the methods."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    is_whole: bool = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self.headers[name.lower()] = value

    def on_body(self, piece: bytes) -> None:
        """A piece of the body."""
        self.body += piece

    def on_message_complete(self) -> None:
        """The end."""
        self.is_whole = True


@dataclass(frozen=True)
class Turn:
    """What one service did in one turn.

    Attributes:
        milliseconds: of each picture that was answered, ascending.
        outcomes: how many came to what; errors among them.
        seconds: how long the turn lasted.
    """

    milliseconds: Sequence[float]
    outcomes: Counter[str]
    seconds: float

    @property
    def per_second(self) -> float:
        """Pictures answered a second."""
        return len(self.milliseconds) / self.seconds

    @property
    def errors(self) -> int:
        """How many pictures came to no verdict."""
        return sum(count for outcome, count in self.outcomes.items() if outcome.startswith("error"))

    def percentile(self, share: float) -> float:
        """In milliseconds; 0 if nothing was answered."""
        return float(np.percentile(self.milliseconds, share)) if self.milliseconds else 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the load and print what it came to; 1 if the gate failed on anything."""
    given = parser().parse_args(arguments)
    key = given.key or given.key_file.read_text().strip()
    pictures = from_folder(given.folder) if given.folder else drawn(given.megapixels)
    services = [cordon(given.url, key, given.answer)]
    if given.peer:
        services.append(Service(given.peer, given.peer_url, ask_hma, outcome_of_hma))
    console = Console(stderr=True)
    turns: dict[str, list[Turn]] = {service.name: [] for service in services}
    before = ticks()
    for service in services:
        load(service, pictures, given.concurrency, min(2.0, given.seconds))
    planned = list(itertools.product(range(given.rounds), services))
    for _, service in track(planned, "Loading", console=console, disable=not sys.stderr.isatty()):
        turns[service.name].append(load(service, pictures, given.concurrency, given.seconds))
    held = resident_bytes(given.pid) if given.pid else None
    stolen = stolen_share(before, ticks())
    if given.json:
        sys.stdout.write(json.dumps(document(turns, held, stolen)) + "\n")
    else:
        tell(Console(), turns, held, stolen)
    return 1 if any(turn.errors for turn in turns["cordon"]) else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser("python -m bench.load", description=__doc__)
    made.add_argument("--url", required=True, help="of the gate: scheme, host and port")
    secret = made.add_mutually_exclusive_group(required=True)
    secret.add_argument("--key", help="a token with the scope ingest, made with a --rate it does not reach")
    secret.add_argument("--key-file", type=Path, help="a file that holds it, so that no process list does")
    made.add_argument(
        "--answer", choices=("status", "json"), default="status", help="which answer to ask for"
    )
    source = made.add_mutually_exclusive_group()
    source.add_argument("--folder", type=Path, help="pictures to send; all files of it")
    source.add_argument("--megapixels", type=float, default=1.6, help="size of the JPEGs to draw (1.6)")
    made.add_argument("--concurrency", type=int, default=4, help="connections at once (4)")
    made.add_argument("--seconds", type=float, default=10, help="length of a turn (10)")
    made.add_argument("--rounds", type=int, default=3, help="turns of each service (3)")
    made.add_argument("--pid", type=int, help="of the gate, to tell what it and its children hold in memory")
    made.add_argument("--peer", choices=("hma",), help="load this as well, in turns")
    made.add_argument("--peer-url", help="of the peer: scheme, host and port")
    made.add_argument("--json", action="store_true", help="one JSON object")
    return made


def drawn(megapixels: float) -> list[bytes]:
    """JPEGs of three to two with structure at every scale, about as large as a camera's."""
    width = round((megapixels * 1e6 * 1.5) ** 0.5)
    return [draw(np.random.default_rng(seed), width, round(width / 1.5)) for seed in range(PICTURES)]


def draw(rng: np.random.Generator, width: int, height: int) -> bytes:
    """One JPEG, quality 88, 4:2:0."""
    total = np.zeros((height, width, 3), np.float32)
    for cells in (4, 16, 64, 256):
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
        total += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32) / cells**0.5
    out = io.BytesIO()
    Image.fromarray((total * 255 / total.max()).astype(np.uint8)).save(out, "JPEG", quality=88)
    return out.getvalue()


def from_folder(folder: Path) -> list[bytes]:
    """The files of a folder, in order of their names."""
    found = [path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()]
    if not found:
        raise SystemExit(f"{folder} holds no file")
    return found


def cordon(url: str, key: str, answer: str) -> Service:
    """A gate, to which pictures go as raw bytes."""
    path = "/v1/ingest?answer=status" if answer == "status" else "/v1/ingest"
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/octet-stream"}

    def outcome(told: Answer) -> str:
        verdict = told.headers.get(b"cordon-verdict", b"").decode()
        if not verdict or (answer == "status" and VERDICTS.get(told.status) != verdict):
            return f"error {told.status}"
        return verdict

    return Service("cordon", url, lambda picture: Request(path, headers, picture), outcome)


def ask_hma(picture: bytes) -> Request:
    """Look a picture up in HMA: hashed there, and searched in every bank."""
    before = (
        b'--picture\r\nContent-Disposition: form-data; name="photo"; filename="a.jpg"\r\n'
        b"Content-Type: image/jpeg\r\n\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=picture"}
    return Request("/m/lookup", headers, before + picture + b"\r\n--picture--\r\n")


def outcome_of_hma(told: Answer) -> str:
    """Whether any bank has something near."""
    if told.status != HTTPStatus.OK:
        return f"error {told.status}"
    return "match" if any(json.loads(told.body).values()) else "clear"


def load(service: Service, pictures: Sequence[bytes], concurrency: int, seconds: float) -> Turn:
    """Keep so many requests running for so long; those begun are waited for."""
    milliseconds: list[float] = []
    outcomes: Counter[str] = Counter()
    lock = threading.Lock()
    # Made beforehand, since what the tool takes of the processors is not the service's.
    host = urlsplit(service.url).netloc
    next_request = itertools.cycle([service.ask(picture).to_bytes(host) for picture in pictures])
    began = time.perf_counter()

    def keep_asking() -> None:
        line = Line(service.url)
        while time.perf_counter() - began < seconds:
            with lock:
                request = next(next_request)
            asked = time.perf_counter()
            try:
                outcome = service.outcome(line.exchange(request))
            except (OSError, httptools.HttpParserError, ValueError) as error:
                outcome = f"error {type(error).__name__}"
                line.close()
            took = (time.perf_counter() - asked) * 1000
            with lock:
                outcomes[outcome] += 1
                if not outcome.startswith("error"):
                    milliseconds.append(took)
        line.close()

    threads = [threading.Thread(target=keep_asking) for _ in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Turn(sorted(milliseconds), outcomes, time.perf_counter() - began)


class Line:
    """A connection that is kept from one request to the next, as long as the service keeps it."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        if self._parts.scheme not in {"http", "https"} or not self._parts.hostname:
            raise SystemExit(f"{url!r} is no http or https URL")
        self._socket: socket.socket | None = None

    def exchange(self, request: bytes) -> Answer:
        """Send a request and wait for its answer.

        Raises:
            OSError: the connection failed, or ended before the answer did.
            httptools.HttpParserError: what came is no answer.
        """
        if self._socket is None:
            self._socket = self._connect()
        self._socket.sendall(request)
        answer = Answer()
        parser = httptools.HttpResponseParser(answer)
        while not answer.is_whole:
            received = self._socket.recv(64 * 1024)
            if not received:
                raise ConnectionError("the connection ended before the answer did")
            parser.feed_data(received)
        answer.status = parser.get_status_code()
        if not parser.should_keep_alive():
            self.close()
        return answer

    def close(self) -> None:
        """End the connection; the next request makes another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self) -> socket.socket:
        host = self._parts.hostname or ""
        secure = self._parts.scheme == "https"
        line = socket.create_connection((host, self._parts.port or (443 if secure else 80)), ANSWER_SECONDS)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return ssl.create_default_context().wrap_socket(line, server_hostname=host) if secure else line


def ratios(turns: dict[str, list[Turn]]) -> dict[str, list[float]]:
    """Of each pair of turns: how many times more a second, and which part of the peer's p50 the p99 is."""
    peers = [name for name in turns if name != "cordon"]
    return {
        f"{what} ({name})": [of(one, other) for one, other in zip(turns["cordon"], turns[name], strict=True)]
        for name in peers
        for what, of in (
            ("uploads a second", _times_as_many),
            ("p99, as a share of the peer's p50", _tail_share),
        )
    }


def _times_as_many(own: Turn, peer: Turn) -> float:
    return own.per_second / peer.per_second if peer.milliseconds else 0.0


def _tail_share(own: Turn, peer: Turn) -> float:
    return own.percentile(99) / peer.percentile(50) if peer.milliseconds else 0.0


def document(turns: dict[str, list[Turn]], held: int | None, stolen: float) -> dict[str, object]:
    """All of it, for programs."""
    return {
        "turns": {
            name: [
                {
                    "per_second": turn.per_second,
                    "p50_ms": turn.percentile(50),
                    "p90_ms": turn.percentile(90),
                    "p99_ms": turn.percentile(99),
                    "outcomes": dict(turn.outcomes),
                }
                for turn in all_turns
            ]
            for name, all_turns in turns.items()
        },
        "ratios": ratios(turns),
        "resident_bytes": held,
        "stolen": stolen,
    }


def tell(console: Console, turns: dict[str, list[Turn]], held: int | None, stolen: float) -> None:
    """All of it, for people: medians of the turns, and the spread of the ratios."""
    table = Table("service", "uploads a second", "p50, ms", "p90, ms", "p99, ms", "errors", "outcomes")
    for name, all_turns in turns.items():
        rates = [turn.per_second for turn in all_turns]
        outcomes = sum((turn.outcomes for turn in all_turns), Counter[str]())
        table.add_row(
            name,
            f"{statistics.median(rates):.1f} ({min(rates):.1f} to {max(rates):.1f})",
            *(
                f"{statistics.median(turn.percentile(share) for turn in all_turns):.1f}"
                for share in (50, 90, 99)
            ),
            str(sum(turn.errors for turn in all_turns)),
            ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common()),
        )
    console.print(table)
    for what, each in ratios(turns).items():
        console.print(f"{what}: {statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})")
    if held is not None:
        console.print(
            f"Held by the gate and its children: {held / MEBIBYTE:.0f} MiB, what they share counted once"
        )
    console.print(f"Stolen by the host meanwhile: {stolen:.0%} of the busy processor time")


if __name__ == "__main__":
    sys.exit(main())
