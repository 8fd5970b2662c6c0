"""``cordon ingest --server``: the same answers from a gate that runs elsewhere."""

import asyncio
import contextlib
import hashlib
import json
import os
import ssl
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import urlsplit

import httpx
from pydantic import ValidationError
from ulid import ULID

from app import __version__, formats, release
from app.answer import IngestAnswer
from app.cli.console import UsageError, say
from app.cli.outcomes import Outcome, Tell, failure, problem, work_on_all
from app.cli.saving import SaveDirectory
from app.cli.sources import CHUNK_BYTES, Kind, Source, chunks, open_file
from app.media import Verdict

BATCH_FROM_URLS: Final = 20
"""As many URLs or more go through the batch endpoint."""

BATCH_LINES: Final = 500
BATCH_BYTES: Final = 2 * 1024 * 1024
"""Of one batch; half of what a server takes, so that answers never wait for the last line of a long list."""

ANSWER_HEADER: Final = "cordon-answer"

_TRIES: Final = 5
_TRIES_ON_THE_WIRE: Final = 2
_LONGEST_PAUSE_SECONDS: Final = 30.0
_TIMEOUTS: Final = httpx.Timeout(connect=10, write=60, read=300, pool=None)
_EMPTY_REQUEST_CODE: Final = "invalid_request"
_WORTH_ANOTHER_TRY: Final = frozenset({"overloaded", "rate_limited"})

# What fails while connecting or on the wire, and what a server sends that is no HTTP.
_WIRE_ERRORS: Final = (httpx.TransportError, httpx.InvalidURL)


class FileChangedError(Exception):
    """A file was changed while it was sent."""


def open_client(server: str, token: str, ca_file: Path | None) -> httpx.AsyncClient:
    """A client of one server.

    Raises:
        UsageError: the URL, the token or the file of certificates cannot be used.
    """
    try:
        parts = urlsplit(server)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and not parts.query
    except ValueError:
        usable = False
    if not usable:
        raise UsageError("--server takes the gate's base URL, like https://gate.example:8080")
    if parts.username or parts.password:
        raise UsageError("--server takes no user or password; give the token with --token-file")
    if parts.scheme == "http" and parts.hostname not in {"127.0.0.1", "::1", "localhost"}:
        say("warning: http:// sends the token and the media in the clear")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError("the token holds characters that no token has")
    try:
        trusted = ssl.create_default_context(cafile=str(ca_file)) if ca_file else ssl.create_default_context()
    except (OSError, ssl.SSLError):
        raise UsageError("--ca-file: no file of PEM certificates") from None
    return httpx.AsyncClient(
        base_url=server,
        headers={"Authorization": f"Bearer {token}", "User-Agent": f"cordon-cli/{__version__}"},
        timeout=_TIMEOUTS,
        verify=trusted,
        trust_env=False,
        limits=httpx.Limits(max_connections=None),
    )


async def refusal(client: httpx.AsyncClient) -> dict[str, Any] | None:
    """The problem that every request would be answered with now; None if the gate would take media in.

    To be asked before media is sent: a server that refuses an upload hangs up, and its answer may be lost.
    """
    try:
        response = await client.post("/v1/ingest", json={})
    except _WIRE_ERRORS as error:
        return problem("server_unreachable", f"The server did not answer ({type(error).__name__}).")
    answer = _json(response.text)
    if answer is None or "code" not in answer:
        return problem("server_unreachable", "What answered is no gate.")
    return None if answer["code"] == _EMPTY_REQUEST_CODE else answer


@dataclass(frozen=True)
class RemoteRun:
    """A gate on a server.

    Attributes:
        save: where clear media go; None if only verdicts are wanted.
    """

    client: httpx.AsyncClient = field(repr=False)
    save: SaveDirectory | None

    async def take_in_all(self, sources: Sequence[Source], tell: Tell, *, at_once: int) -> None:
        """Take all sources through the gate: many URLs as batches, the rest one by one."""
        refused = await refusal(self.client)
        if refused is not None:
            for source in sources:
                tell(Outcome(source, problem=refused))
            return
        urls = [source for source in sources if source.kind is Kind.URL]
        if self.save is not None or len(urls) < BATCH_FROM_URLS:
            await work_on_all(sources, self.take_in, tell, at_once=at_once)
            return
        others = [source for source in sources if source.kind is not Kind.URL]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._take_in_batches(urls, tell))
            tasks.create_task(work_on_all(others, self.take_in, tell, at_once=at_once))

    async def take_in(self, source: Source) -> Outcome:
        """Take one source through the gate."""
        # Known to the server by this key, a try that was repeated makes no second report.
        key = str(ULID())
        for tries in range(1, _TRIES + 1):
            try:
                outcome, pause = await self._try(source, key)
            except _WIRE_ERRORS as error:
                outcome, pause = _broken_off(source, error), 1.0 if tries < _TRIES_ON_THE_WIRE else None
            except FileChangedError:
                return failure(source, "unreadable", "The file changed while it was sent.")
            except OSError as error:
                return failure(source, "unreadable", f"The file cannot be read: {error.strerror}.")
            # What came from standard input cannot be sent a second time.
            if pause is None or source.kind is Kind.STANDARD_INPUT:
                break
            await asyncio.sleep(pause)
        return outcome

    async def _try(self, source: Source, key: str) -> tuple[Outcome, float | None]:
        """One try, and after how many seconds another is worth it, if it is."""
        headers = {"Idempotency-Key": key}
        if source.kind is Kind.URL and self.save is not None:
            return await self._download(source, self.save, headers)
        if source.kind is Kind.URL:
            response = await self.client.post("/v1/ingest", json=_request(source), headers=headers)
        else:
            response = await self._upload(source, headers)
        outcome = _outcome(source, response)
        if outcome.verdict == "clear" and source.kind is Kind.FILE and self.save is not None:
            return self._copy(source, self.save, outcome), None
        return outcome, _pause(response, outcome)

    async def _upload(self, source: Source, headers: dict[str, str]) -> httpx.Response:
        """Send a file or standard input as it is read, as raw bytes or, with a context, as multipart."""
        if source.kind is Kind.STANDARD_INPUT:
            headers |= {"Content-Type": "application/octet-stream"}
            return await self.client.post("/v1/ingest", content=chunks(sys.stdin.buffer), headers=headers)
        with open_file(source.path) as file:
            size = os.fstat(file.fileno()).st_size
            before, after, content_type = _envelope(source)
            headers |= {
                "Content-Type": content_type,
                "Content-Length": str(len(before) + size + len(after)),
            }

            async def body() -> AsyncIterator[bytes]:
                if before:
                    yield before
                async for chunk in _exactly(file, size):
                    yield chunk
                if after:
                    yield after

            return await self.client.post("/v1/ingest", content=body(), headers=headers)

    async def _download(
        self, source: Source, save: SaveDirectory, headers: dict[str, str]
    ) -> tuple[Outcome, float | None]:
        """Have a URL fetched through the gate, and write what it hands on."""
        async with self.client.stream(
            "POST", "/v1/media", params={"answer": "header"}, json=_request(source), headers=headers
        ) as response:
            if response.status_code != httpx.codes.OK:
                await response.aread()
                outcome = _outcome(source, response)
                return outcome, _pause(response, outcome)
            told = _answer(_json(response.headers.get(ANSWER_HEADER, "")))
            if told is None or told["verdict"] != "clear" or "content-encoding" in response.headers:
                return _no_gate(source), None
            path = save.choose(source, str(told["id"]), _format(told))
            try:
                with release.new_file(path) as file:
                    async for chunk in response.aiter_raw(CHUNK_BYTES):
                        file.write(chunk)
            except OSError as error:
                return _not_saved(source, error), None
        return Outcome(source, answer=told, saved=path), None

    def _copy(self, source: Source, save: SaveDirectory, outcome: Outcome) -> Outcome:
        """Copy a file that was found clear, if it still is the one that was sent."""
        answer = outcome.answer or {}
        path = save.choose(source, str(answer["id"]), _format(answer))
        try:
            with open_file(source.path) as original, release.new_file(path) as file:
                _copy_verified(original, file, answer["signals"]["sha256"])
        except FileChangedError:
            return failure(source, "not_saved", "The file changed after it was scanned; it was not copied.")
        except OSError as error:
            return _not_saved(source, error)
        return Outcome(source, answer=answer, saved=path)

    async def _take_in_batches(self, urls: Sequence[Source], tell: Tell) -> None:
        for batch in _batches(urls):
            unanswered = dict(enumerate(batch, 1))
            try:
                await self._take_in_batch(batch, unanswered, tell)
            except _WIRE_ERRORS as error:
                for source in unanswered.values():
                    tell(_broken_off(source, error))

    async def _take_in_batch(
        self, batch: Sequence[Source], unanswered: dict[int, Source], tell: Tell
    ) -> None:
        """Send one batch, and tell of each line as its answer comes; what is left had none."""
        body = b"".join(json.dumps(_request(source)).encode() + b"\n" for source in batch)
        for left in reversed(range(_TRIES)):
            async with self.client.stream(
                "POST",
                "/v1/ingest/batch",
                content=body,
                headers={"Content-Type": "application/x-ndjson"},
            ) as response:
                if response.status_code == httpx.codes.OK:
                    await _read_batch(response, unanswered, tell)
                    break
                await response.aread()
                refused = _outcome(batch[0], response)
                pause = _pause(response, refused)
                if pause is None or not left:
                    for number in list(unanswered):
                        tell(Outcome(unanswered.pop(number), problem=refused.problem))
                    return
            await asyncio.sleep(pause)
        for number in list(unanswered):
            tell(failure(unanswered.pop(number), "unanswered", "The server gave this line no answer."))


def _copy_verified(original: BinaryIO, copy: BinaryIO, sha256: str) -> None:
    """Copy a file that must have this SHA-256, 64 hex digits.

    Raises:
        FileChangedError: it has another.
    """
    seen = hashlib.sha256()
    while chunk := original.read(CHUNK_BYTES):
        seen.update(chunk)
        copy.write(chunk)
    if seen.hexdigest() != sha256:
        raise FileChangedError


async def _read_batch(response: httpx.Response, unanswered: dict[int, Source], tell: Tell) -> None:
    async for line in response.aiter_lines():
        item = _json(line)
        source = unanswered.pop(item["line"], None) if item and isinstance(item.get("line"), int) else None
        if item is None or source is None:
            continue
        result = _answer(item.get("result"))
        if result is not None:
            tell(Outcome(source, answer=result))
        elif isinstance(item.get("problem"), dict):
            tell(Outcome(source, problem=item["problem"]))
        else:
            tell(_no_gate(source))


def _request(source: Source) -> dict[str, Any]:
    said = source.context.said()
    return {"url": source.name, **({"context": said} if said else {})}


def _envelope(source: Source) -> tuple[bytes, bytes, str]:
    """What goes before and after a file's bytes, and the type of it all; nothing without a context."""
    said = source.context.said()
    if not said:
        return b"", b"", "application/octet-stream"
    boundary = f"cordon-{ULID()}"
    before = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="context"\r\n'
        f"Content-Type: application/json\r\n\r\n{json.dumps(said)}\r\n"
        f'--{boundary}\r\nContent-Disposition: form-data; name="media"; filename="media"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return before.encode(), f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


async def _exactly(file: BinaryIO, size: int) -> AsyncIterator[bytes]:
    """A file's bytes as they are read, which must be as many as were promised.

    Raises:
        FileChangedError: there are fewer or more.
    """
    sent = 0
    async for chunk in chunks(file):
        sent += len(chunk)
        if sent > size:
            raise FileChangedError
        yield chunk
    if sent < size:
        raise FileChangedError


def _outcome(source: Source, response: httpx.Response) -> Outcome:
    """What a whole answer says."""
    body = _json(response.text)
    if body is None:
        return _no_gate(source)
    # Of the gated download, what matched or is undecidable is told within a problem.
    told = _answer(body if response.status_code == httpx.codes.OK else body.get("result"))
    if told is not None:
        return Outcome(source, answer=told)
    return Outcome(source, problem=body) if "code" in body else _no_gate(source)


def _pause(response: httpx.Response, outcome: Outcome) -> float | None:
    """After how many seconds another try is worth it; None if it is not."""
    if outcome.problem is None or outcome.problem.get("code") not in _WORTH_ANOTHER_TRY:
        return None
    with contextlib.suppress(ValueError):
        return min(max(float(response.headers.get("retry-after", "")), 0.1), _LONGEST_PAUSE_SECONDS)
    return 1.0


def _broken_off(source: Source, error: Exception) -> Outcome:
    detail = f"The server broke off ({type(error).__name__})"
    size = "; the file may be larger than it accepts" if source.kind is Kind.FILE else ""
    return failure(source, "server_unreachable", f"{detail}{size}.")


def _no_gate(source: Source) -> Outcome:
    return failure(source, "server_unreachable", "What answered is no gate of this version.")


def _not_saved(source: Source, error: OSError) -> Outcome:
    return failure(source, "not_saved", f"It is clear, but could not be saved: {error.strerror}.")


def _format(answer: dict[str, Any]) -> str:
    known = {told.name for told in (*formats.IMAGES, *formats.VIDEOS)}
    untrusted = (answer.get("media") or {}).get("format")
    return untrusted if untrusted in known else "bin"


def _answer(untrusted: object) -> dict[str, Any] | None:
    """An answer of this version's shape; None for anything else, which must never pass for clear."""
    try:
        told = IngestAnswer.model_validate(untrusted)
    except ValidationError:
        return None
    whole = told.signals is not None or told.verdict is not Verdict.CLEAR
    return told.model_dump(mode="json") if whole else None


def _json(text: str) -> dict[str, Any] | None:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _batches(urls: Sequence[Source]) -> list[list[Source]]:
    """The URLs in batches that a server takes."""
    batches: list[list[Source]] = [[]]
    size = 0
    for source in urls:
        bytes_of_line = len(json.dumps(_request(source))) + 1
        if batches[-1] and (len(batches[-1]) == BATCH_LINES or size + bytes_of_line > BATCH_BYTES):
            batches.append([])
            size = 0
        batches[-1].append(source)
        size += bytes_of_line
    return batches
