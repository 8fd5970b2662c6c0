"""Every entrance of a gate, hosts that misbehave, and callers who leave: how marked media come in."""

import asyncio
import json
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

import httpx

from tests.gates import RunningGate
from tests.promises.canaries import MIB, Medium, Secrets
from tests.worlds import Asked, MediaHost, NameServer, Script

VERDICT = "cordon-verdict"
HALF = MIB


@dataclass(frozen=True)
class Site:
    """A host that has all media under secret names, and the names."""

    host: MediaHost
    names: NameServer
    secrets: Secrets

    def name_hosts(self) -> None:
        """Make the secret names of hosts lead here."""
        for host in ("host", "elsewhere-host"):
            self.names.names[f"{self.secrets[host]}.example"] = ["127.0.0.1"]

    def serve(self, media: Iterable[Medium]) -> None:
        """Put media there, each also behind a redirect from another host."""
        headers = {"ETag": f'"{self.secrets["etag"]}"', "Last_Modified": self.secrets["last-modified"]}
        for medium in media:
            self.host.serve(self._path(medium.name), medium.content, medium.media_type, **headers)
            self.host.redirect(self._path(medium.name, "elsewhere-path"), self.url(medium.name))

    def misbehave(self, content: bytes) -> None:
        """Never answer, stop in the middle, or hang up there."""
        self.host.script(self._path("silent"), _wait)
        self.host.script(self._path("stalled"), _half(content, _wait))
        self.host.script(self._path("broken"), _half(content, _leave))

    def url(self, name: str) -> str:
        """Where a medium is: a host, a path and a query that stand nowhere else."""
        return self._url(self._path(name), "host")

    def redirected(self, name: str) -> str:
        """What leads there."""
        return self._url(self._path(name, "elsewhere-path"), "elsewhere-host")

    def _path(self, name: str, folder: str = "path") -> str:
        return f"/{self.secrets[folder]}/{name}"

    def _url(self, path: str, host: str) -> str:
        return self.host.url(f"{path}?q={self.secrets['query']}", f"{self.secrets[host]}.example")


async def _wait(_asked: Asked, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def _leave(_asked: Asked, _reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    pass


def _half(content: bytes, then: Script) -> Script:
    async def answer(asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\n\r\n".encode())
        writer.write(content[: len(content) // 2])
        await writer.drain()
        await then(asked, reader, writer)

    return answer


@dataclass(frozen=True)
class Caller:
    """Someone with a token, a list of media and much to say of them."""

    client: httpx.Client
    site: Site
    _numbers: Iterator[int] = field(default_factory=count)

    @property
    def secrets(self) -> Secrets:
        return self.site.secrets

    def raw(self, medium: Medium) -> str:
        return _outcome(self._post(medium.content, medium.media_type))

    def chunked(self, medium: Medium) -> str:
        pieces = (medium.content[place : place + 50_000] for place in range(0, len(medium.content), 50_000))
        return _outcome(self._post(pieces, medium.media_type))

    def media_first(self, medium: Medium) -> str:
        return _outcome(self._form(("media", "context"), medium))

    def context_first(self, medium: Medium) -> str:
        return _outcome(self._form(("context", "media"), medium))

    def url(self, medium: Medium) -> str:
        return _outcome(self._ask("/v1/ingest", self.site.url(medium.name)))

    def redirected_url(self, medium: Medium) -> str:
        return _outcome(self._ask("/v1/ingest", self.site.redirected(medium.name)))

    def media_post(self, medium: Medium) -> str:
        answer = self._ask("/v1/media", self.site.url(medium.name))
        assert answer.status_code != httpx.codes.OK or answer.content == medium.content
        return _outcome(answer)

    def media_get(self, medium: Medium) -> str:
        answer = self.client.get("/v1/media", params={"url": self.site.url(medium.name)})
        assert answer.status_code != httpx.codes.OK or answer.content == medium.content
        return _outcome(answer)

    def batch(self, media: Iterable[Medium]) -> dict[str, str]:
        """Name of each medium → what came of it."""
        named = dict(enumerate((medium.name for medium in media), 1))
        lines = [
            json.dumps({"url": self.site.url(name), "context": self.secrets.context()})
            for name in named.values()
        ]
        answer = self.client.post(
            "/v1/ingest/batch", content="\n".join(lines), headers={"Content-Type": "application/x-ndjson"}
        )
        told = [json.loads(line) for line in answer.text.splitlines()]
        assert told.pop() == {"done": len(named)}
        return {
            named[each["line"]]: each["result"]["verdict"] if "result" in each else each["problem"]["code"]
            for each in told
        }

    def ask_for(self, name: str) -> str:
        """What comes of a URL of the site."""
        return _outcome(self._ask("/v1/ingest", self.site.url(name)))

    def _post(self, content: bytes | Iterable[bytes], media_type: str) -> httpx.Response:
        headers = {"Content-Type": media_type, "Idempotency-Key": self._key()}
        return self.client.post("/v1/ingest", content=content, headers=headers)

    def _form(self, order: tuple[str, str], medium: Medium) -> httpx.Response:
        parts: Mapping[str, tuple[str | None, bytes | str]] = {
            "media": (self.secrets["file-name"], medium.content),
            "context": (None, json.dumps(self.secrets.context())),
        }
        return self.client.post(
            "/v1/ingest",
            files={name: parts[name] for name in order},
            headers={"Idempotency-Key": self._key()},
        )

    def _ask(self, path: str, url: str) -> httpx.Response:
        return self.client.post(
            path,
            json={"url": url, "context": self.secrets.context()},
            headers={"Idempotency-Key": self._key()},
        )

    def _key(self) -> str:
        return f"{self.secrets['idempotency-key']}-{next(self._numbers)}"


DOORS: tuple[Callable[[Caller, Medium], str], ...] = (
    Caller.raw,
    Caller.chunked,
    Caller.media_first,
    Caller.context_first,
    Caller.url,
    Caller.redirected_url,
    Caller.media_post,
    Caller.media_get,
)


def _outcome(answer: httpx.Response) -> str:
    return answer.headers.get(VERDICT) or str(answer.json()["code"])


def began_upload(gate: RunningGate, content: bytes, part: int) -> socket.socket:
    """A connection on which the first ``part`` bytes of a medium were sent."""
    connection = socket.create_connection(("127.0.0.1", gate.port), timeout=30)
    token = gate.prepared.tokens["ingest"]
    head = (
        f"POST /v1/ingest HTTP/1.1\r\nHost: gate\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: image/jpeg\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    connection.sendall(head.encode() + content[:part])
    return connection
