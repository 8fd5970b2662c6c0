"""Sealed reports over HTTP: listed, fetched as they stand, held. Nothing here can open one."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from app.api import bodies, problems
from app.api.edge import Key
from app.api.services import InServices, Services, scope
from app.custody.decision import Action
from app.custody.envelope import MAX_BYTES, canonical
from app.errors import ConflictError
from app.media import BankKind
from app.store.record import audit
from app.store.reports import accepting, decisions, filing_log, filings, removal, reports, resealing, sealed
from app.store.reports.filings import Filing, Step
from app.store.reports.report_states import State

router = APIRouter(tags=["reports"])

_ULID: Final = "^[0-9A-HJKMNP-TV-Z]{26}$"
MAX_RESEALED_BYTES: Final = 32 * 1024 * 1024
"""Of one report with all of its later sightings, in base64."""

ReportId = Annotated[str, Path(pattern=_ULID, description="The report's ULID.")]
ReportKey = Annotated[Key, scope("report")]

_PROBLEMS_OF_ONE = problems.documented("not_found", "invalid_request")
_PROBLEMS_OF_DECISION = problems.documented(
    "not_found", "conflict", "too_large", "invalid_request", "signature_required"
)
_SEALED: Final[dict[int | str, dict[str, Any]]] = _PROBLEMS_OF_ONE | {
    200: {
        "description": "The sealed stub, which `age -d` opens with a custodian's key.",
        "headers": {
            "Content-Disposition": problems.documented_header(
                "Saves it as `<id>.age`.", {"type": "string", "pattern": "^attachment; filename=.+"}
            ),
        },
        "content": {"application/age": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_BASE64: Final = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_SIGNED: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["signature", "signed"],
    "additionalProperties": False,
    "properties": {"signature": {"type": "string"}, "signed": {"type": "string"}},
}
_SIGNED_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "A custodian's signed document: canonical JSON as a string, and the Ed25519 signature "
        "over `cordon decision v1`, a line feed and that string.",
        "content": {"application/json": {"schema": _SIGNED}},
    }
}
_RESEALED_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "A custodian's signed decision to reseal, the fingerprints of all that are pinned, "
        "and each sealed file in base64 by the id of the report or of its later sighting.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["decision", "custodians", "files"],
                    "additionalProperties": False,
                    "properties": {
                        "decision": _SIGNED,
                        "custodians": {"type": "array", "items": {"type": "string"}},
                        "files": {
                            "type": "object",
                            "additionalProperties": {"type": "string", "pattern": _BASE64},
                        },
                    },
                }
            }
        },
    }
}
_SIGNED_IF_ANY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": False,
        "description": "None, or a custodian's signed document.",
        "content": {"application/json": {"schema": _SIGNED}},
    }
}


class SightingSummary(BaseModel):
    """A later sighting of the same medium at the same place, sealed on its own."""

    id: str
    seen_at: datetime
    custodians: list[str] = Field(description="Fingerprints of the keys that it is sealed to.")
    sealed_sha256: str


class ReportSummary(BaseModel):
    """What stands beside a sealed report in the clear."""

    id: str
    created_at: datetime
    state: State
    cause: str | None = Field(description="Why it is parked; null in any other state.")
    changed_at: datetime | None = Field(description="When it came to this state; null while it is the first.")
    decided_at: datetime | None = Field(description="When a person last decided on it.")
    receipt_at: datetime | None = Field(description="When the authority said that it has it.")
    on_hold: bool
    bank_kind: BankKind
    custodians: list[str] = Field(description="Fingerprints of the keys that it is sealed to.")
    sealed_sha256: str
    later_sightings: int = Field(description="How many sightings joined it while it was queued.")


class FilingSummary(BaseModel):
    """How far a report has come at the authority."""

    environment: str = Field(description="`double`, `test` or `production`: only the last counts.")
    step: Step
    authority_report_id: str | None = Field(description="What the authority calls it, once it was opened.")
    request_id: str | None = Field(description="Of the authority's last answer; its support asks for it.")
    attempts: int
    last_code: int | None = Field(description="Of the authority's last answer that had one.")
    first_attempt_at: datetime
    opened_at: datetime | None
    finish_attempted_at: datetime | None = Field(
        description="When the irreversible call was first about to be made."
    )
    next_attempt_at: datetime | None = Field(description="Null unless it is on its way.")
    in_hand_until: datetime | None = Field(description="When the turn that a worker has ends.")


class FilingStep(BaseModel):
    """One step of a report towards the authority, as the audit log has it."""

    at: datetime
    step: str = Field(description="A state, or `finishing`, `withdrawn`, `afresh`, `retried` or `filed_too`.")
    environment: str | None
    authority_report_id: str | None
    cause: str | None = Field(description="Why it was parked.")


class ReportDetail(ReportSummary):
    """A report with its later sightings and its steps towards the authority, oldest first."""

    sightings: list[SightingSummary]
    filing: FilingSummary | None = Field(description="Null while nobody tried to file it.")
    steps: list[FilingStep]


class SignedDocument(BaseModel):
    """What a custodian signed."""

    signature: str = Field(description="Ed25519, base64.")
    signed: str = Field(description="Canonical JSON.")


class Resealed(BaseModel):
    """A report's files, sealed anew by a custodian."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    decision: SignedDocument
    custodians: list[str]
    files: dict[str, Base64Bytes]


class DecisionList(BaseModel):
    """Decisions on a report, oldest first."""

    decisions: list[SignedDocument]


class ReportList(BaseModel):
    """Reports, newest first."""

    reports: list[ReportSummary]
    unreadable: list[str] = Field(
        description="Ids of those among them whose rows hold what no Cordon wrote: somebody changed the "
        "database, and `cordon audit verify` says where. They are not among the reports; mostly none."
    )


@router.get(
    "/v1/reports",
    name="reports",
    responses=problems.documented("invalid_request"),
    response_description="As many as asked for.",
    summary="Reports, newest first",
)
async def list_reports(
    at: InServices,
    key: ReportKey,  # noqa: ARG001 - checked by its dependency
    state: Annotated[State | SkipJsonSchema[None], Query(description="Only those in this state.")] = None,
    before: Annotated[
        Annotated[str, Field(pattern=_ULID)] | SkipJsonSchema[None],
        Query(description="Only those older than this id: the next page."),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=reports.MAX_LISTED)] = 100,
) -> ReportList:
    """What can be told of each without opening it."""
    async with at.database.connect() as connection:
        page = await reports.list_reports(connection, state=state, before=before, limit=limit)
    return ReportList(reports=[_summary(report) for report in page.reports], unreadable=list(page.unreadable))


@router.get(
    "/v1/reports/{report_id}",
    name="report",
    responses=_PROBLEMS_OF_ONE,
    response_description="What stands beside it in the clear.",
    summary="One report",
)
async def get_report(at: InServices, key: ReportKey, report_id: ReportId) -> ReportDetail:  # noqa: ARG001
    """What can be told of it without opening it."""
    async with at.database.connect() as connection:
        report = await reports.get(connection, report_id)
        later = await reports.list_sightings(connection, report_id)
        filing = await filings.get(connection, report_id)
        steps = await filing_log.steps(connection, report_id)
    return ReportDetail(
        **_summary(report).model_dump(),
        sightings=[
            SightingSummary(
                id=each.id,
                seen_at=each.seen_at,
                custodians=list(each.custodians),
                sealed_sha256=each.sealed_sha256,
            )
            for each in later
        ],
        filing=_filing(report, filing) if filing is not None else None,
        steps=[FilingStep(**asdict(each)) for each in steps],
    )


@router.get(
    "/v1/reports/{report_id}/sealed",
    name="report_sealed",
    responses=_SEALED,
    response_class=Response,
    summary="The sealed stub as it stands",
)
async def get_sealed(at: InServices, key: ReportKey, report_id: ReportId) -> Response:
    """An age file, sealed to the custodians listed with the report. Who took it is recorded."""
    async with at.database.begin() as connection:
        file = await sealed.sealed(connection, report_id)
        await audit.append(connection, "report.taken", report_id, {"by": key.id})
    return _age_file(file, report_id)


@router.get(
    "/v1/reports/{report_id}/sightings/{sighting_id}/sealed",
    name="report_sighting_sealed",
    responses=_SEALED,
    response_class=Response,
    summary="The sealed stub of a later sighting",
)
async def get_sealed_sighting(
    at: InServices,
    key: ReportKey,
    report_id: ReportId,
    sighting_id: Annotated[str, Path(pattern=_ULID, description="The sighting's ULID.")],
) -> Response:
    """An age file, sealed to the custodians listed with the sighting. Who took it is recorded."""
    async with at.database.begin() as connection:
        file = await sealed.sealed_sighting(connection, report_id, sighting_id)
        told = {"by": key.id, "sighting": sighting_id}
        await audit.append(connection, "report.taken", report_id, told)
    return _age_file(file, sighting_id)


@router.get(
    "/v1/reports/{report_id}/decisions",
    name="report_decisions",
    responses=problems.documented("not_found", "conflict", "invalid_request"),
    response_description="Every signed document, oldest first.",
    summary="What custodians decided on a report",
)
async def get_decisions(at: InServices, key: ReportKey, report_id: ReportId) -> DecisionList:  # noqa: ARG001
    """Each as its custodian signed it; 409 if the database was changed. What it says in words is sealed."""
    async with at.database.connect() as connection:
        await reports.get(connection, report_id)
        found = await decisions.every(connection, report_id, at.pins.read_if_there())
    return DecisionList(decisions=[SignedDocument.model_validate_json(each.document) for each in found])


@router.post(
    "/v1/reports/{report_id}/hold",
    name="report_hold",
    responses=_PROBLEMS_OF_DECISION,
    response_description="The report, on hold.",
    openapi_extra=_SIGNED_IF_ANY,
    summary="Keep a report from ever being removed",
)
async def hold(request: Request, at: InServices, key: ReportKey, report_id: ReportId) -> ReportSummary:
    """A flag on any state; asking twice is no error.

    With a custodian's signed document, as `cordon report hold --identity FILE --out FILE` writes it, it ends
    with another such document alone.
    """
    return await _set_hold(request, at, key, report_id, Action.HOLD)


@router.post(
    "/v1/reports/{report_id}/unhold",
    name="report_unhold",
    responses=_PROBLEMS_OF_DECISION,
    response_description="The report, no longer on hold.",
    openapi_extra=_SIGNED_IF_ANY,
    summary="End a hold",
)
async def unhold(request: Request, at: InServices, key: ReportKey, report_id: ReportId) -> ReportSummary:
    """Asking twice is no error. A hold that a custodian signed takes a signed document: 422 without."""
    return await _set_hold(request, at, key, report_id, Action.UNHOLD)


@router.post(
    "/v1/reports/{report_id}/approve",
    name="report_approve",
    responses=_PROBLEMS_OF_DECISION,
    response_description="The report: `approved`, or where it was if another custodian must approve it too.",
    openapi_extra=_SIGNED_BODY,
    summary="Approve a report for filing, with a custodian's signed document",
)
async def approve(request: Request, at: InServices, key: ReportKey, report_id: ReportId) -> ReportSummary:
    """`cordon report approve --out FILE` writes it where the custodian's key is.

    The worker files the XML in it and nothing else. 409 if the report is not as its signer saw it any more.
    """
    return await _decide(request, at, key, report_id, Action.APPROVE)


@router.post(
    "/v1/reports/{report_id}/reject",
    name="report_reject",
    responses=_PROBLEMS_OF_DECISION,
    response_description="The report: `rejected`, or where it was if it is open at the authority or another "
    "custodian must reject it too.",
    openapi_extra=_SIGNED_BODY,
    summary="Reject a report as a false match, with a custodian's signed document",
)
async def reject(request: Request, at: InServices, key: ReportKey, report_id: ReportId) -> ReportSummary:
    """`cordon report reject --out FILE` writes it, and names what is to be taken out of its bank.

    A `submitted` report stays so until the worker withdrew it: then it is `retracted`, or `filed` if it was
    too late.
    """
    return await _decide(request, at, key, report_id, Action.REJECT)


@router.post(
    "/v1/reports/{report_id}/annotate",
    name="report_annotate",
    responses=_PROBLEMS_OF_DECISION,
    response_description="The report, as it was.",
    openapi_extra=_SIGNED_BODY,
    summary="Put a custodian's signed note on a report",
)
async def annotate(request: Request, at: InServices, key: ReportKey, report_id: ReportId) -> ReportSummary:
    """`cordon report annotate --out FILE` writes it. The note is sealed to the custodians."""
    return await _decide(request, at, key, report_id, Action.ANNOTATE)


@router.post(
    "/v1/reports/{report_id}/filed",
    name="report_filed",
    responses=_PROBLEMS_OF_DECISION,
    response_description="The report: `filed_manually`, or where it was if another custodian must say so "
    "too.",
    openapi_extra=_SIGNED_BODY,
    summary="Record that a report was filed by hand, with a custodian's signed document",
)
async def filed(request: Request, at: InServices, key: ReportKey, report_id: ReportId) -> ReportSummary:
    """`cordon report filed --out FILE` writes it. The reference is sealed to the custodians."""
    return await _decide(request, at, key, report_id, Action.FILED)


@router.post(
    "/v1/reports/{report_id}/afresh",
    name="report_afresh",
    responses=_PROBLEMS_OF_DECISION,
    response_description="The report: `submitted`, or `approved`.",
    openapi_extra=_SIGNED_BODY,
    summary="File a report anew, though it may be filed already, with a custodian's signed document",
)
async def afresh(request: Request, at: InServices, key: ReportKey, report_id: ReportId) -> ReportSummary:
    """`cordon report retry --afresh --out FILE` writes it. The reason is sealed to the custodians.

    409 unless finishing it was attempted, and while the worker has it in hand.
    """
    return await _decide(request, at, key, report_id, Action.AFRESH)


@router.post(
    "/v1/reports/{report_id}/reseal",
    name="report_reseal",
    responses=_PROBLEMS_OF_DECISION | problems.documented("malformed", "unsupported_media_type"),
    response_description="The report, sealed to all that are pinned.",
    openapi_extra=_RESEALED_BODY,
    summary="Put a report's files, sealed anew by a custodian, in the place of the earlier ones",
)
async def reseal(request: Request, at: InServices, key: ReportKey, report_id: ReportId) -> ReportSummary:
    """`cordon report reseal --server URL` opens and seals them where the custodian's key is.

    What they hold no gate can see: the custodian's signature stands for it. 409 if the report is not as its
    signer saw it any more, or the custodian has another list of the pinned than this gate.
    """
    wanted = await bodies.read_model(request, MAX_RESEALED_BYTES, Resealed)
    roster = at.pins.read_if_there()
    if wanted.custodians != list(roster.fingerprints):
        raise ConflictError(
            "Those whom it is sealed to are not those pinned here: take a new copy of the gate's file."
        )
    async with at.database.begin() as connection:
        return _summary(
            await resealing.take_resealed(
                connection,
                canonical(wanted.decision.model_dump()).encode(),
                wanted.files,
                roster,
                report_id=report_id,
                by=key.id,
            )
        )


@router.post(
    "/v1/reports/{report_id}/destroy",
    name="report_destroy",
    status_code=204,
    responses=_PROBLEMS_OF_DECISION
    | {202: {"description": "Another custodian must order it too; the report stays until then."}},
    response_description="It is destroyed.",
    response_class=Response,
    openapi_extra=_SIGNED_BODY,
    summary="Destroy a report on lawful request, with a custodian's signed order",
)
async def destroy(request: Request, at: InServices, key: ReportKey, report_id: ReportId) -> Response:
    """`cordon report destroy --out FILE` writes it. 409 while the report is on hold or being filed.

    The worker erases what is left in the database's files within a minute or two.
    """
    document = await bodies.read_bounded(request, MAX_BYTES)
    async with at.database.begin() as connection:
        gone = await removal.destroy(
            connection,
            document,
            at.pins.read_if_there(),
            report_id=report_id,
            dual_control=at.settings.custody.dual_control,
            by=key.id,
        )
    return Response(status_code=204 if gone else 202)


async def _decide(request: Request, at: Services, key: Key, report_id: str, action: Action) -> ReportSummary:
    document = await bodies.read_bounded(request, MAX_BYTES)
    async with at.database.begin() as connection:
        report = await accepting.take(
            connection,
            document,
            at.pins.read_if_there(),
            report_id=report_id,
            actions=(action,),
            dual_control=at.settings.custody.dual_control,
            by=key.id,
        )
    return _summary(report)


async def _set_hold(
    request: Request, at: Services, key: Key, report_id: str, action: Action
) -> ReportSummary:
    document = await bodies.read_bounded(request, MAX_BYTES)
    roster, on_hold = at.pins.read_if_there(), action is Action.HOLD
    async with at.database.begin() as connection:
        # Some clients send an empty object where nothing is to be sent.
        if document.strip() not in {b"", b"{}"}:
            report = await accepting.take(
                connection, document, roster, report_id=report_id, actions=(action,), by=key.id
            )
        else:
            report = await accepting.set_hold(connection, report_id, roster, on_hold=on_hold, by=key.id)
    return _summary(report)


def _filing(report: reports.Report, filing: Filing) -> FilingSummary:
    on_its_way = report.state in filings.TO_FILE
    return FilingSummary(
        environment=filing.environment,
        step=filing.step,
        authority_report_id=filing.authority_report_id,
        request_id=filing.request_id,
        attempts=filing.attempts,
        last_code=filing.last_code,
        first_attempt_at=filing.first_attempt_at,
        opened_at=filing.opened_at,
        finish_attempted_at=filing.finish_attempted_at,
        next_attempt_at=filing.next_attempt_at if on_its_way else None,
        in_hand_until=filing.leased_until,
    )


def _age_file(file: bytes, name: str) -> Response:
    headers = {
        "content-disposition": f'attachment; filename="{name}.age"',
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
    }
    return Response(file, 200, headers, "application/age")


def _summary(report: reports.Report) -> ReportSummary:
    return ReportSummary(
        id=report.id,
        created_at=report.created_at,
        state=report.state,
        cause=report.cause,
        changed_at=report.changed_at,
        decided_at=report.decided_at,
        receipt_at=report.receipt_at,
        on_hold=report.on_hold,
        bank_kind=report.bank_kind,
        custodians=list(report.custodians),
        sealed_sha256=report.sealed_sha256,
        later_sightings=report.later_sightings,
    )
