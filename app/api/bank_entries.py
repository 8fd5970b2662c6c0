"""Single entries of banks over HTTP, and what became of a bank."""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from app.api import bodies, problems
from app.api.banks import (
    MAX_POLICY_BYTES,
    PROBLEMS_OF_SIGNALS,
    SIGNALS_BODY,
    BankKey,
    BankName,
    number,
    read_signals,
)
from app.api.edge import require_scope
from app.api.services import InServices, Services
from app.entries import PLAIN_TEXT_PATTERN
from app.media import SignalType
from app.store.banks import bank_history, bank_listing, banks, entry_marks
from app.store.banks.bank_history import BankChange
from app.store.banks.bank_listing import BankEntry, EntryState
from app.store.keys import Scope

router = APIRouter(tags=["banks"])

_LARGEST_ID: Final = 2**53 - 1

Id = Annotated[int, Field(ge=1, le=_LARGEST_ID)]
EntryId = Annotated[int, Path(ge=1, le=_LARGEST_ID, description="The entry's id.")]

_PROBLEMS_OF_LISTS: Final = problems.documented("not_found", "invalid_request")
_PROBLEMS_OF_ENTRIES: Final = problems.documented(
    "not_found", "too_large", "unsupported_media_type", "invalid_request"
)


class SourceSummary(BaseModel):
    """What a source says of an entry."""

    source: str
    reference: str | None = Field(description="The entry's id there.")
    classification: str | None = Field(description="In the source's own terms.")
    restrictions: str | None = Field(description="What it may be used for, and by whom.")
    listed_at: str | None = Field(description="When the source listed it, as it says.")
    imported_at: datetime = Field(description="When that was told here.")


class DisabledSummary(BaseModel):
    """That an entry is out of force."""

    at: datetime
    by: str = Field(description="Id of a key, or `cli`.")
    why: str


class EntrySummary(BaseModel):
    """One entry of a bank. It leaves only towards holders of the scope `bank`."""

    id: int
    bank: str
    type: SignalType
    value: str = Field(description="Hex digits.")
    note: str | None
    added_at: datetime
    sources: list[SourceSummary] = Field(description="The newest word of each source, by name.")
    disputed: bool = Field(description="Whether the sources disagree on its classification.")
    disabled: DisabledSummary | None
    parked_at: datetime | None = Field(
        description="Since when its reports wait for a person, because it matched very many different media."
    )
    tolerated_until: datetime | None = Field(description="Until when it is not parked again.")
    suppressors: list[int] = Field(
        description="Ids of entries of suppression banks that were named to cancel its near matches."
    )
    media: dict[date, int] = Field(description="How many different media it matched on the last such days.")


class EntryList(BaseModel):
    """Entries by ascending id."""

    entries: list[EntrySummary]


class ChangeSummary(BaseModel):
    """One change of a bank."""

    seq: int = Field(description="Its number in the audit log.")
    at: datetime
    what: str = Field(examples=["signals_added"])
    by: str = Field(description="Id of a key, `cli`, or `flood_guard`.")
    entries: int | None = Field(description="How many it added or removed; null for another kind of change.")
    entry_id: int | None = Field(description="The entry it was about; null if about the bank.")
    details: dict[str, Any] = Field(description="What else the audit log says.")


class History(BaseModel):
    """Changes of a bank, newest first."""

    changes: list[ChangeSummary]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class DisableRequest(_Body):
    """Why an entry is to be out of force."""

    why: str = Field(
        json_schema_extra={
            "minLength": 1,
            "maxLength": entry_marks.MAX_WHY_CHARACTERS,
            "allOf": [{"pattern": r"\S"}, {"pattern": PLAIN_TEXT_PATTERN}],
        }
    )


class NoteRequest(_Body):
    """A note for an entry; null takes it away."""

    note: str | None = Field(
        json_schema_extra={"maxLength": entry_marks.MAX_NOTE_CHARACTERS, "pattern": PLAIN_TEXT_PATTERN}
    )


class PairRequest(_Body):
    """The entry of a suppression bank that may cancel near matches of this one."""

    suppressor_id: Annotated[Id, BeforeValidator(number)]


def _documented(model: type[BaseModel], example: Mapping[str, Any]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    content = {"application/json": {"schema": schema, "example": example}}
    return {"requestBody": {"required": True, "content": content}}


@router.get(
    "/v1/banks/{name}/entries",
    name="bank_entries",
    responses=_PROBLEMS_OF_LISTS,
    response_description="As many as asked for.",
    summary="Entries of a bank",
)
async def list_entries(
    at: InServices,
    key: BankKey,  # noqa: ARG001 - checked by its dependency
    name: BankName,
    *,
    state: Annotated[
        EntryState | SkipJsonSchema[None], Query(description="Only those of which this holds.")
    ] = None,
    after: Annotated[
        int, Query(ge=0, le=_LARGEST_ID, description="Only those of a larger id: the next page.")
    ] = 0,
    limit: Annotated[int, Query(ge=1, le=bank_listing.MAX_LISTED)] = 100,
) -> EntryList:
    """With what their sources say of them, and what people decided."""
    async with at.database.connect() as connection:
        found = await bank_listing.page(connection, name, state=state, after=after, limit=limit)
    return EntryList(entries=[_summary(entry) for entry in found])


@router.post(
    "/v1/banks/{name}/find",
    name="bank_find",
    responses=PROBLEMS_OF_SIGNALS,
    response_description="Those that the bank holds.",
    openapi_extra=SIGNALS_BODY,
    summary="The entries that are these signals",
)
async def find_entries(
    request: Request,
    at: InServices,
    key: BankKey,  # noqa: ARG001 - checked by its dependency
    name: BankName,
) -> EntryList:
    """Asked for in a body, so that no value stands in the log of a proxy. What is not there is left out."""
    signals, _ = await read_signals(request)
    async with at.database.connect() as connection:
        found = await bank_listing.find(connection, name, signals)
    return EntryList(entries=[_summary(entry) for entry in found])


@router.get(
    "/v1/banks/{name}/entries/{entry_id}",
    name="bank_entry",
    responses=_PROBLEMS_OF_LISTS,
    response_description="The entry.",
    summary="One entry of a bank",
)
async def get_entry(
    at: InServices,
    key: BankKey,  # noqa: ARG001 - checked by its dependency
    name: BankName,
    entry_id: EntryId,
) -> EntrySummary:
    """With what its sources say of it, and what people decided."""
    return await _entry(at, name, entry_id)


@router.post(
    "/v1/banks/{name}/entries/{entry_id}/disable",
    name="bank_entry_disable",
    responses=_PROBLEMS_OF_ENTRIES,
    response_description="The entry, out of force.",
    openapi_extra=_documented(DisableRequest, {"why": "a logo, see case 17"}),
    summary="Take one entry out of force",
)
async def disable(
    request: Request, at: InServices, key: BankKey, name: BankName, entry_id: EntryId
) -> EntrySummary:
    """The rest of the bank stays as it is, and an import does not bring the entry back into force."""
    why = (await bodies.read_model(request, MAX_POLICY_BYTES, DisableRequest)).why
    async with at.database.begin() as connection:
        await entry_marks.disable(connection, entry_id, why=why, by=key.id, in_bank=name)
    await entry_marks.release_reports(at.database)
    return await _entry(at, name, entry_id)


@router.post(
    "/v1/banks/{name}/entries/{entry_id}/enable",
    name="bank_entry_enable",
    responses=_PROBLEMS_OF_LISTS,
    response_description="The entry, in force.",
    summary="Put a disabled entry in force again",
)
async def enable(at: InServices, key: BankKey, name: BankName, entry_id: EntryId) -> EntrySummary:
    """Asking twice is no error. In a suppression bank it takes the scope `bank:suppress`."""
    async with at.database.begin() as connection:
        if (await banks.get(connection, name)).suppresses:
            require_scope(key, Scope.SUPPRESS)
        await entry_marks.enable(connection, entry_id, by=key.id, in_bank=name)
    return await _entry(at, name, entry_id)


@router.post(
    "/v1/banks/{name}/entries/{entry_id}/annotate",
    name="bank_entry_annotate",
    responses=_PROBLEMS_OF_ENTRIES,
    response_description="The entry with its note.",
    openapi_extra=_documented(NoteRequest, {"note": "seen in case 17"}),
    summary="Set the note of one entry",
)
async def annotate(
    request: Request, at: InServices, key: BankKey, name: BankName, entry_id: EntryId
) -> EntrySummary:
    """A word of your own, for whoever looks after the bank."""
    note = (await bodies.read_model(request, MAX_POLICY_BYTES, NoteRequest)).note
    async with at.database.begin() as connection:
        await entry_marks.annotate(connection, entry_id, note=note or None, by=key.id, in_bank=name)
    return await _entry(at, name, entry_id)


@router.post(
    "/v1/banks/{name}/entries/{entry_id}/keep",
    name="bank_entry_keep",
    responses=problems.documented("not_found", "conflict", "invalid_request"),
    response_description="The entry, not parked any more.",
    summary="Decide that a parked entry is right",
)
async def keep(at: InServices, key: BankKey, name: BankName, entry_id: EntryId) -> EntrySummary:
    """What it matches is queued for custodians again, and for 30 days it is not parked.

    The other decision is to disable it. 409 if it is not parked.
    """
    async with at.database.begin() as connection:
        await entry_marks.keep(connection, entry_id, by=key.id, in_bank=name)
    await entry_marks.release_reports(at.database)
    return await _entry(at, name, entry_id)


@router.post(
    "/v1/banks/{name}/entries/{entry_id}/pair",
    name="bank_entry_pair",
    responses=_PROBLEMS_OF_ENTRIES | problems.documented("conflict"),
    response_description="The entry with its suppressors.",
    openapi_extra=_documented(PairRequest, {"suppressor_id": 7}),
    summary="Let one entry of a suppression bank cancel near matches of this csam entry",
)
async def pair(
    request: Request, at: InServices, key: BankKey, name: BankName, entry_id: EntryId
) -> EntrySummary:
    """Needs the scope `bank:suppress` beside `bank`. An exact match is not cancelled even so.

    409 if the two are no such entries.
    """
    require_scope(key, Scope.SUPPRESS)
    suppressor_id = (await bodies.read_model(request, MAX_POLICY_BYTES, PairRequest)).suppressor_id
    async with at.database.begin() as connection:
        await entry_marks.name_pair(connection, entry_id, suppressor_id, by=key.id, in_bank=name)
    return await _entry(at, name, entry_id)


@router.post(
    "/v1/banks/{name}/entries/{entry_id}/unpair",
    name="bank_entry_unpair",
    responses=_PROBLEMS_OF_ENTRIES,
    response_description="The entry with the suppressors that are left.",
    openapi_extra=_documented(PairRequest, {"suppressor_id": 7}),
    summary="Take such a pair apart",
)
async def unpair(
    request: Request, at: InServices, key: BankKey, name: BankName, entry_id: EntryId
) -> EntrySummary:
    """404 if they are none."""
    suppressor_id = (await bodies.read_model(request, MAX_POLICY_BYTES, PairRequest)).suppressor_id
    async with at.database.begin() as connection:
        await entry_marks.drop_pair(connection, entry_id, suppressor_id, by=key.id, in_bank=name)
    return await _entry(at, name, entry_id)


@router.get(
    "/v1/banks/{name}/history",
    name="bank_history",
    responses=_PROBLEMS_OF_LISTS,
    response_description="As many as asked for.",
    summary="What became of a bank",
)
async def history(
    at: InServices,
    key: BankKey,  # noqa: ARG001 - checked by its dependency
    name: BankName,
    before: Annotated[
        Annotated[int, Field(ge=1, le=_LARGEST_ID)] | SkipJsonSchema[None],
        Query(description="Only changes of a smaller number: the next page."),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=bank_history.MAX_LISTED)] = 100,
) -> History:
    """Who did what, when, and to how many entries, newest first; told of a deleted bank too."""
    async with at.database.connect() as connection:
        found = await bank_history.history(connection, name, before=before, limit=limit)
    return History(changes=[_change(each) for each in found])


async def _entry(at: Services, name: str, entry_id: int) -> EntrySummary:
    async with at.database.connect() as connection:
        return _summary(await bank_listing.get(connection, entry_id, in_bank=name))


def _summary(entry: BankEntry) -> EntrySummary:
    disabled = entry.disabled
    return EntrySummary(
        id=entry.id,
        bank=entry.bank,
        type=entry.type,
        value=entry.value.hex(),
        note=entry.note,
        added_at=entry.added_at,
        sources=[SourceSummary.model_validate(each, from_attributes=True) for each in entry.sources],
        disputed=entry.disputed,
        disabled=DisabledSummary(at=disabled.at, by=disabled.by, why=disabled.why) if disabled else None,
        parked_at=entry.parked_at,
        tolerated_until=entry.tolerated_until,
        suppressors=list(entry.suppressors),
        media=dict(entry.media),
    )


def _change(change: BankChange) -> ChangeSummary:
    return ChangeSummary.model_validate(change, from_attributes=True)
