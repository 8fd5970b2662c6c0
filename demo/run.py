"""Watch media go through a gate, and a match to who must hear of it: ``make demo``.

Everything is real but the content and the authority: the server, its database, the custodian's key, the HTTP
requests. The pictures are drawn by code, the bank is a mock list made from one of them, and the report goes
to a stand-in on this machine. State goes to ``.demo/``, which each run makes anew.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from rich.console import Console
from rich.table import Table

from demo.host import PictureHost
from demo.pictures import edited, encoded, flipped, scene

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".demo"
CORDON = Path(sys.executable).with_name("cordon")
METADATA_ADDRESS = "http://169.254.169.254/latest/meta-data/"
START_SECONDS = 60

CONFIGURATION = """\
# Made by `make demo`. Loopback is open to the fetcher only because the demo's picture host runs there.
state_dir = "{home}/state"
fetch_allow = ["127.0.0.0/8"]
fetch_ports = "*"
filing_identity = "{home}/worker.key"
cybertip = "double"
jurisdiction = "us"
reporter_role = "voluntary"
reporter_first_name = "Ada"
reporter_last_name = "Nowak"
reporter_email = "ada@lab.example"
reporter_company = "The Lab of Letters"

[profile.demo]
disclose_banks = true
"""


@dataclass(frozen=True)
class Sent:
    """One medium that went in, and what came out."""

    what: str
    entrance: str
    verdict: str
    why: str
    seconds: float | None


def main() -> int:
    """Run the demo; the exit code is 0 only if every verdict is the one a reader was promised."""
    console = Console(highlight=False, soft_wrap=True)
    say(console, "1", "A gate of its own, in .demo/: custodians, a key, a bank, a server")
    prepare()
    token = set_up(console)
    with picture_host() as host, running_server(console) as server:
        say(console, "2", "Pictures and URLs go in")
        client = httpx.Client(
            base_url=server, headers={"Authorization": f"Bearer {token}"}, timeout=60, trust_env=False
        )
        sent = [*upload_all(client), *send_urls(client, host), *send_batch(client, host)]
        show(console, sent)
        say(console, "3", "What is left of the matches")
        report_id = show_reports(console, host)
    say(console, "4", "A custodian approves one, and it is filed with a stand-in for NCMEC's CyberTipline")
    filed = report_id is not None and file_with_stand_in(console, report_id)
    expected = ["clear", "match", "match", "match", "match", "undecidable", "undecidable"]
    expected += ["clear", "match", "refused", "clear", "clear", "match", "refused"]
    if [each.verdict for each in sent] != expected or not filed:
        console.print("\n[red]Something here is not as it should be; see the table above.[/red]")
        return 1
    console.print("\n[green]Done.[/green] To keep this gate running and try it yourself:\n")
    console.print("  CORDON_CONFIG=.demo/cordon.toml .venv/bin/cordon serve", soft_wrap=True)
    console.print(
        f"  curl -H 'Authorization: Bearer {token}' --data-binary @.demo/pictures/edited-copy.jpg \\\n"
        "       -H 'Content-Type: image/jpeg' http://127.0.0.1:8080/v1/ingest",
        soft_wrap=True,
    )
    return 0


def say(console: Console, number: str, text: str) -> None:
    """Print a step's heading."""
    console.print(f"\n[bold]{number}. {text}[/bold]")


def prepare() -> None:
    """Make ``.demo/`` anew and draw the pictures."""
    shutil.rmtree(HOME, ignore_errors=True)
    (HOME / "pictures").mkdir(parents=True, mode=0o700)
    HOME.chmod(0o700)
    (HOME / "cordon.toml").write_text(CONFIGURATION.format(home=HOME))
    banked, harmless = scene(7), scene(21)
    for name, content in {
        "banked.png": encoded(banked, "PNG"),
        "exact-copy.png": encoded(banked, "PNG"),
        "edited-copy.jpg": encoded(edited(banked), "JPEG", quality=70),
        "palette-copy.gif": encoded(banked.quantize(128), "GIF"),
        "flipped-copy.jpg": encoded(flipped(banked), "JPEG", quality=80),
        "harmless.jpg": encoded(harmless, "JPEG", quality=90),
        "harmless.webp": encoded(scene(33), "WEBP", quality=90),
        "harmless.avif": encoded(scene(45), "AVIF", quality=90),
        "flat.png": encoded(Image.new("RGB", (400, 300), (90, 120, 150)), "PNG"),
        "notes.jpg": b"These are plain words under a picture's name.\n" * 20,
    }.items():
        (HOME / "pictures" / name).write_bytes(content)


def set_up(console: Console) -> str:
    """Make two custodians, a worker, a key and a bank with the command line, as an operator would."""
    for name in ("ada", "grace"):
        console.print(f"   {name} makes a key and becomes a custodian")
        cordon("custodian", "add", name, *make_key(name, "--signing-key"))
    console.print("   so does the worker, which files what they approve: its key is pinned")
    cordon("custodian", "pin", "--yes", "--worker", *make_key("worker", "--worker-signing-key"))
    key = json.loads(
        cordon("key", "create", "--name", "demo", "--scope", "ingest", "--profile", "demo", "--json")
    )
    console.print("   a mock bank is filled with the hashes of one picture")
    hashes = cordon("bank", "hash", str(HOME / "pictures" / "banked.png"), "--json")
    (HOME / "bank.jsonl").write_text(hashes)
    cordon("bank", "create", "mock-list", "--kind", "csam", "--action", "report")
    cordon("bank", "import", "mock-list", str(HOME / "bank.jsonl"))
    console.print("   the server starts")
    return str(key["token"])


def make_key(name: str, option: str) -> tuple[str, str, str]:
    """Make somebody's private key; what tells a command of the public halves, the second as an option."""
    key = json.loads(cordon("custodian", "keygen", "--out", str(HOME / f"{name}.key"), "--json"))
    return key["public_key"], option, key["signing_key"]


@contextlib.contextmanager
def picture_host() -> Iterator[PictureHost]:
    """The local host that the URLs point to."""
    kinds = {"jpg": "image/jpeg", "webp": "image/webp", "avif": "image/avif", "gif": "image/gif"}
    files = {
        f"/{path.name}": (path.read_bytes(), kinds.get(path.suffix[1:], "image/png"))
        for path in (HOME / "pictures").iterdir()
    }
    with PictureHost(files) as host:
        yield host


@contextlib.contextmanager
def running_server(console: Console) -> Iterator[str]:
    """Start the gate on a free port, and end it with SIGTERM as a service manager would."""
    ready_file = HOME / "ready"
    with (HOME / "server.log").open("wb") as server_log:
        process = subprocess.Popen(
            [CORDON, "serve", "--port", "0", "--ready-file", ready_file],
            env=environment(),
            stdout=server_log,
            stderr=server_log,
        )
        try:
            deadline = time.monotonic() + START_SECONDS
            while not ready_file.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    message = f"the server did not start; see {HOME / 'server.log'}"
                    raise SystemExit(message)
                time.sleep(0.05)
            server = ready_file.read_text().strip()
            while httpx.get(f"{server}/readyz", trust_env=False).status_code != httpx.codes.OK:
                if time.monotonic() > deadline:
                    message = f"the server did not get ready; see {HOME / 'server.log'}"
                    raise SystemExit(message)
                time.sleep(0.05)
            console.print(f"   serving at {server}, and ready: a match would be caught and stored now")
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def upload_all(client: httpx.Client) -> list[Sent]:
    """Post files as raw bodies."""
    table = {
        "harmless.jpg": "a picture nobody listed",
        "exact-copy.png": "the banked picture, byte for byte",
        "edited-copy.jpg": "the same, smaller, brighter, marked, JPEG",
        "palette-copy.gif": "the same in 128 colours, GIF",
        "flipped-copy.jpg": "the same, flipped, on a border",
        "flat.png": "one plain colour",
        "notes.jpg": "words under a picture's name",
    }
    sent = []
    for name, what in table.items():
        started = time.perf_counter()
        answer = client.post(
            "/v1/ingest",
            content=(HOME / "pictures" / name).read_bytes(),
            headers={"Content-Type": "application/octet-stream"},
        )
        sent.append(told(what, "upload", answer.status_code, answer.json(), time.perf_counter() - started))
    return sent


def send_urls(client: httpx.Client, host: PictureHost) -> list[Sent]:
    """Post URLs, each with its context."""
    table = {
        host.url("/harmless.webp"): "a WebP nobody listed",
        host.url("/edited-copy.jpg"): "the edited copy, on a site",
        METADATA_ADDRESS: "a cloud's inner address",
    }
    sent = []
    for url, what in table.items():
        started = time.perf_counter()
        context = {"platform": "example", "account_id": "account-4711"}
        answer = client.post("/v1/ingest", json={"url": url, "context": context})
        sent.append(told(what, "URL", answer.status_code, answer.json(), time.perf_counter() - started))
    return sent


def send_batch(client: httpx.Client, host: PictureHost) -> list[Sent]:
    """Post a list of URLs; the answers come in order of finishing."""
    table = {
        "harmless.jpg again": host.url("/harmless.jpg"),
        "an AVIF nobody listed": host.url("/harmless.avif"),
        "the exact copy, on a site": host.url("/exact-copy.png"),
        "a name that nobody has": "http://no-such-host.invalid/a.jpg",
    }
    lines = [json.dumps({"url": url, "context": {"client_ref": what}}) for what, url in table.items()]
    answer = client.post(
        "/v1/ingest/batch", content="\n".join(lines), headers={"Content-Type": "application/x-ndjson"}
    )
    items = [json.loads(line) for line in answer.text.splitlines()]
    by_line = sorted((item for item in items if "line" in item), key=lambda item: int(item["line"]))
    return [
        told(item["client_ref"], "batch", item["status"], item.get("result") or item["problem"], None)
        for item in by_line
    ]


def told(what: str, entrance: str, status: int, body: dict[str, Any], seconds: float | None) -> Sent:
    """One row of the table."""
    if status != httpx.codes.OK:
        refused = body["code"] == "url_refused"
        return Sent(what, entrance, "refused" if refused else "error", body["code"], seconds)
    verdict = str(body["verdict"])
    if verdict == "match":
        return Sent(
            what, entrance, verdict, f"in {body['matches'][0]['bank']}; dropped, report stored", seconds
        )
    if verdict == "undecidable":
        return Sent(what, entrance, verdict, f"{body['reason']}; withheld", seconds)
    quality = body["signals"]["pdq"]["quality"]
    return Sent(what, entrance, verdict, f"in no bank (PDQ quality {quality})", seconds)


def show(console: Console, sent: list[Sent]) -> None:
    """Print what went in, the verdict and why."""
    colours = {"clear": "green", "match": "red", "undecidable": "yellow", "refused": "magenta"}
    table = Table()
    for heading in ("what went in", "how", "verdict", "why"):
        table.add_column(heading)
    table.add_column("ms", justify="right")
    for each in sent:
        colour = colours.get(each.verdict, "red")
        table.add_row(
            each.what,
            each.entrance,
            f"[{colour}]{each.verdict}[/{colour}]",
            each.why,
            f"{each.seconds * 1000:.0f}" if each.seconds is not None else "",
        )
    console.print(table)


def show_reports(console: Console, host: PictureHost) -> str | None:
    """Show that the database tells nothing, and open one with a custodian's key; its id if all is well."""
    reports = [json.loads(line) for line in cordon("report", "list", "--json").splitlines()]
    console.print(f"   {len(reports)} sealed reports are queued for the custodians")
    stored = b"".join(path.read_bytes() for path in (HOME / "state").glob("cordon.db*"))
    secrets = {
        "the URL": host.url("/edited-copy.jpg").encode(),
        "the account": b"account-4711",
        "the pictures": (HOME / "pictures" / "edited-copy.jpg").read_bytes()[200:264],
    }
    found = [name for name, secret in secrets.items() if secret in stored]
    console.print(
        f"   the database ({len(stored) // 1024} KiB, all of its files) holds in the clear: "
        + (", ".join(found) if found else f"none of {', '.join(secrets)}")
    )
    opened = None
    for report in reports:
        document = json.loads(
            cordon("report", "open", report["id"], "--identity", str(HOME / "ada.key"), "--json")
        )
        if document["provenance"].get("requested_url") == host.url("/edited-copy.jpg"):
            opened = document
    if opened is None:
        console.print("   [red]no report tells of the edited copy that was fetched[/red]")
        return None
    match = next(match for match in opened["matches"] if match["signal"] == "pdq")
    console.print("   opened with ada's key, one of them says:")
    console.print_json(
        json.dumps(
            {
                "report_id": opened["report_id"],
                "bank_kind": opened["bank_kind"],
                "requested_url": opened["provenance"]["requested_url"],
                "fetched_at": opened["provenance"]["fetched_at"],
                "context": opened["context"],
                "matched": {
                    key: match[key] for key in ("bank", "signal", "distance", "threshold", "quality")
                },
                "statement": opened["statement"],
            }
        ),
        indent=2,
    )
    return str(opened["report_id"]) if not found else None


@contextlib.contextmanager
def stand_in() -> Iterator[str]:
    """NCMEC's CyberTipline, played on a free port of this machine; its base URL."""
    command: list[str | Path] = [CORDON, "dev", "cybertip-double", "--port", "0"]
    with (HOME / "double.log").open("wb") as double_log:
        process = subprocess.Popen(
            command, env=environment(), stdout=subprocess.PIPE, stderr=double_log, text=True
        )
        try:
            assert process.stdout is not None  # noqa: S101 - for the type checker: it is a pipe
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
            process.communicate(timeout=60)


def file_with_stand_in(console: Console, report_id: str) -> bool:
    """Approve a report with ada's key and file it as the worker would; whether it was filed just once."""
    with stand_in() as authority:
        cordon("report", "approve", report_id, "--identity", str(HOME / "ada.key"), "--yes")
        console.print("   ada signed the very document that is to be filed; the worker can file no other")
        cordon("report", "file", report_id, CORDON_CYBERTIP_DOUBLE_URL=authority)
        told = httpx.get(f"{authority.removesuffix('/ispws')}/double/reports/{report_id}", trust_env=False)
    report = json.loads(cordon("report", "show", report_id, "--json"))
    once = bool(told.json()["filed_exactly_once"])
    log = json.loads(cordon("audit", "verify", "--json"))
    console.print(
        f"   the stand-in has it {'exactly once' if once else '[red]not exactly once[/red]'}; here it is "
        f"'{report['state']}', since practice never counts as filed"
    )
    console.print(
        "   its receipt is sealed to the custodians, and each step is on the audit log, which is "
        f"{'whole' if log['whole'] else '[red]not whole[/red]'}: {log['entries']} entries"
    )
    return once and bool(log["whole"])


def cordon(*arguments: str, **settings: str) -> str:
    """Run one command of Cordon on the demo's state; what it prints."""
    run = subprocess.run(
        [CORDON, *arguments], env=environment() | settings, capture_output=True, text=True, check=False
    )
    if run.returncode != 0:
        message = f"cordon {' '.join(arguments[:2])} failed ({run.returncode}): {run.stderr}"
        raise SystemExit(message)
    return run.stdout


def environment() -> dict[str, str]:
    """The environment without any other gate's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CORDON_")}
    return kept | {"CORDON_CONFIG": str(HOME / "cordon.toml")}


if __name__ == "__main__":
    sys.exit(main())
