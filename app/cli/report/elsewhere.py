"""A gate's reports over HTTP: opened and decided at the custodian's own machine, which has no database."""

import base64
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar
from urllib.parse import urlencode

import typer

from app.cli.console import FailedError, UsageError

if TYPE_CHECKING:
    import httpx

    from app.store.reports.reports import Report

ServerOption = Annotated[
    str | None,
    typer.Option("--server", metavar="URL", help="A gate elsewhere; this machine needs no database."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A token with the scope report, for --server; else CORDON_TOKEN."),
]
CaFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="PEM certificates to trust for --server, instead of the system's."),
]

Answer = TypeVar("Answer")

_PAGE: Final = 1000
_GONE: Final = 204


@dataclass(frozen=True)
class Server:
    """A gate that is asked over HTTP."""

    url: str
    token: str = field(repr=False)
    ca_file: Path | None

    async def sealed(self, report_id: str) -> "tuple[Report, dict[str, bytes]]":
        """A report, with its sealed files and those of its later sightings, oldest first.

        Raises:
            NotFoundError, ConflictError, FailedError: the gate refuses.
            FailedError: a file is not the one that it lists.
        """

        async def read(client: "httpx.AsyncClient") -> "tuple[Report, dict[str, bytes]]":
            shown = (await _asked(client, "GET", f"/v1/reports/{report_id}")).json()
            found = {}
            for each in (shown, *shown["sightings"]):
                path = "sealed" if each is shown else f"sightings/{each['id']}/sealed"
                file = (await _asked(client, "GET", f"/v1/reports/{report_id}/{path}")).content
                if hashlib.sha256(file).hexdigest() != each["sealed_sha256"]:
                    raise FailedError("the gate hands out another sealed file than it lists")
                found[each["id"]] = file
            return _report(shown), found

        return await self._with_client(read)

    async def decisions(self, report_id: str) -> list[dict[str, Any]]:
        """The signed documents of the decisions on a report, oldest first."""

        async def read(client: "httpx.AsyncClient") -> list[dict[str, Any]]:
            answer = await _asked(client, "GET", f"/v1/reports/{report_id}/decisions")
            found: list[dict[str, Any]] = answer.json()["decisions"]
            return found

        return await self._with_client(read)

    async def every_id(self) -> tuple[str, ...]:
        """The ids of all reports, oldest first."""

        async def read(client: "httpx.AsyncClient") -> tuple[str, ...]:
            found: list[str] = []
            unreadable: list[str] = []
            while True:
                before = {"before": found[-1]} if found else {}
                path = f"/v1/reports?{urlencode({'limit': _PAGE, **before})}"
                listed = (await _asked(client, "GET", path)).json()
                page = [str(each["id"]) for each in listed["reports"]]
                found += page
                unreadable += listed.get("unreadable", [])
                if len(page) < _PAGE:
                    return tuple(sorted([*found, *unreadable]))

        return await self._with_client(read)

    async def is_sealed_to(self, report_id: str, custodians: Sequence[str]) -> bool:
        """Whether a report and all of its later sightings are sealed to exactly these, by fingerprint."""

        async def read(client: "httpx.AsyncClient") -> bool:
            shown = (await _asked(client, "GET", f"/v1/reports/{report_id}")).json()
            return all(each["custodians"] == list(custodians) for each in (shown, *shown["sightings"]))

        return await self._with_client(read)

    async def hand_in_resealed(
        self, report_id: str, document: bytes, files: Mapping[str, bytes], custodians: Sequence[str]
    ) -> None:
        """Hand in files that were sealed anew to these custodians, with the signed document that says so."""
        body = {
            "decision": json.loads(document),
            "custodians": list(custodians),
            "files": {name: base64.b64encode(file).decode() for name, file in files.items()},
        }

        async def post(client: "httpx.AsyncClient") -> None:
            await _asked(client, "POST", f"/v1/reports/{report_id}/reseal", json.dumps(body).encode())

        await self._with_client(post)

    async def hand_in(self, report_id: str, action: str, document: bytes) -> str:
        """Hand in a signed document; the state that the report is in then."""

        async def post(client: "httpx.AsyncClient") -> str:
            answer = await _asked(client, "POST", f"/v1/reports/{report_id}/{action}", document)
            return str(answer.json()["state"])

        return await self._with_client(post)

    async def destroy(self, report_id: str, document: bytes) -> bool:
        """Hand in a signed order; False if another custodian must order it too."""

        async def post(client: "httpx.AsyncClient") -> bool:
            answer = await _asked(client, "POST", f"/v1/reports/{report_id}/destroy", document)
            return answer.status_code == _GONE

        return await self._with_client(post)

    async def _with_client(self, work: "Callable[[httpx.AsyncClient], Awaitable[Answer]]") -> Answer:
        import httpx

        from app.cli.remote import open_client

        try:
            async with open_client(self.url, self.token, self.ca_file) as client:
                return await work(client)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise FailedError(f"the gate cannot be reached: {type(error).__name__}") from None
        except (LookupError, ValueError, TypeError):
            raise FailedError("the gate's answer is none of a Cordon of this version") from None


def server_of(url: str | None, token_file: Path | None, ca_file: Path | None) -> Server | None:
    """The gate that the options name; None without ``--server``."""
    from app.cli.ingest import given_token

    if url is None:
        if token_file is not None or ca_file is not None:
            raise UsageError("--token-file and --ca-file go with --server")
        return None
    return Server(url, given_token(None, token_file), ca_file)


def _report(shown: Mapping[str, Any]) -> "Report":
    from app.media import BankKind
    from app.store.reports.report_states import State
    from app.store.reports.reports import Report

    def moment(name: str) -> datetime | None:
        return datetime.fromisoformat(shown[name]) if shown[name] is not None else None

    return Report(
        id=shown["id"],
        created_at=datetime.fromisoformat(shown["created_at"]),
        state=State(shown["state"]),
        changed_at=moment("changed_at"),
        cause=shown["cause"],
        decided_at=moment("decided_at"),
        receipt_at=moment("receipt_at"),
        on_hold=shown["on_hold"],
        bank_kind=BankKind(shown["bank_kind"]),
        custodians=tuple(shown["custodians"]),
        sealed_sha256=shown["sealed_sha256"],
        later_sightings=shown["later_sightings"],
    )


async def _asked(
    client: "httpx.AsyncClient", method: str, path: str, document: bytes | None = None
) -> "httpx.Response":
    headers = {"Content-Type": "application/json"} if document is not None else {}
    answer = await client.request(method, path, content=document, headers=headers)
    import httpx

    from app.errors import ConflictError, NotFoundError

    if answer.is_success:
        return answer
    try:
        detail = str(answer.json()["detail"])
    except (LookupError, ValueError, TypeError):
        detail = "no reason was given"
    if answer.status_code == httpx.codes.NOT_FOUND:
        raise NotFoundError(detail)
    if answer.status_code == httpx.codes.CONFLICT:
        raise ConflictError(detail)
    raise FailedError(f"the gate answers {answer.status_code}: {detail}")
