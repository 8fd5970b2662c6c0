"""Banks over HTTP: their policies and their entries. A change is in force everywhere within seconds."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.api import bodies, problems
from app.api.edge import Key
from app.api.services import InServices, scope
from app.banks.lists import BadSignalError, new_signal
from app.entries import Bank, NewSignal
from app.errors import InvalidRequestError
from app.media import BankAction, BankKind, SignalType
from app.store import banks
from app.store.banks import Changed

router = APIRouter(tags=["banks"])

MAX_SIGNALS: Final = 10_000
_MAX_BODY_BYTES: Final = 16 * 1024 * 1024

BankName = Annotated[str, Path(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="The bank's name.")]
BankKey = Annotated[Key, scope("bank")]

_PROBLEMS: Final = problems.documented("unauthenticated", "forbidden", "not_ready")
_PROBLEMS_OF_ONE: Final = problems.documented(
    "malformed",
    "unauthenticated",
    "forbidden",
    "not_found",
    "conflict",
    "too_large",
    "invalid_request",
    "not_ready",
)


class BankRequest(BaseModel):
    """What a bank is and does."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    kind: BankKind
    action: BankAction
    thresholds: dict[SignalType, int] = Field(
        default_factory=dict,
        description="Largest Hamming distance in bits that still matches, for `pdq` and `phash`.",
        examples=[{"pdq": 31}],
    )
    no_report_reason: str | None = Field(
        None, description="Why a csam bank only blocks; needed there, refused elsewhere."
    )


class BankSummary(BaseModel):
    """A bank and its policy."""

    name: str
    kind: BankKind
    action: BankAction
    thresholds: dict[SignalType, int]
    no_report_reason: str | None


class BankList(BaseModel):
    """All banks, by name."""

    banks: list[BankSummary]


class SignalRequest(BaseModel):
    """One signal for a bank."""

    type: SignalType
    value: str = Field(description="Hex digits; case is ignored.")
    note: str | None = None


class SignalsRequest(BaseModel):
    """Signals for a bank, all or none."""

    signals: list[SignalRequest] = Field(max_length=MAX_SIGNALS)


class ChangeAnswer(BaseModel):
    """What a change did; it is in force once the status tells this generation or a later one."""

    generation: int
    changed: int
    unchanged: int = Field(description="Signals that were there already, or not there to be removed.")


_SIGNALS_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/SignalsRequest"},
                "example": {
                    "signals": [
                        {"type": "md5", "value": "9e107d9d372bb6826bd81d3542a419d6", "note": "case 17"}
                    ]
                },
            }
        },
    }
}


@router.get("/v1/banks", name="banks", responses=_PROBLEMS, summary="All banks and their policies")
async def list_banks(at: InServices, key: BankKey) -> BankList:  # noqa: ARG001 - checked by its dependency
    """What is in force of them, with counts and ages, stands in `/v1/status`."""
    async with at.database.connect() as connection:
        return BankList(banks=[_summary(bank) for bank in await banks.every(connection)])


@router.put(
    "/v1/banks/{name}",
    name="bank",
    responses=_PROBLEMS_OF_ONE | {201: {"model": BankSummary, "description": "It was made."}},
    summary="Make a bank, or change its policy",
)
async def put_bank(
    at: InServices, key: BankKey, name: BankName, wanted: BankRequest, response: Response
) -> BankSummary:
    """201 if it was made, 200 if it was there. The kind of a bank never changes."""
    async with at.database.begin() as connection:
        bank, made = await banks.put(
            connection,
            name=name,
            kind=wanted.kind,
            action=wanted.action,
            by=key.id,
            thresholds=wanted.thresholds,
            no_report_reason=wanted.no_report_reason,
        )
    response.status_code = 201 if made else 200
    return _summary(bank)


@router.post(
    "/v1/banks/{name}/signals",
    name="bank_signals",
    responses=_PROBLEMS_OF_ONE,
    openapi_extra=_SIGNALS_BODY,
    summary="Add up to 10,000 signals, all or none",
)
async def add_signals(request: Request, at: InServices, key: BankKey, name: BankName) -> ChangeAnswer:
    """Signals that are there already are counted as unchanged. A wrong one is named by its index."""
    signals = await _signals(request)
    async with at.database.begin() as connection:
        return _answer(await banks.add(connection, name, signals, by=key.id))


@router.post(
    "/v1/banks/{name}/signals/remove",
    name="bank_signals_remove",
    responses=_PROBLEMS_OF_ONE,
    openapi_extra=_SIGNALS_BODY,
    summary="Remove up to 10,000 signals, all or none",
)
async def remove_signals(request: Request, at: InServices, key: BankKey, name: BankName) -> ChangeAnswer:
    """Signals that are not there are counted as unchanged."""
    signals = await _signals(request)
    async with at.database.begin() as connection:
        return _answer(await banks.remove(connection, name, signals, by=key.id))


async def _signals(request: Request) -> list[NewSignal]:
    """The signals of a body, each checked.

    Raises:
        MalformedError, TooLargeError, InvalidRequestError: naming the index of the first that is wrong.
    """
    body = bodies.decode_json_object(
        await bodies.read_bounded(request, _MAX_BODY_BYTES), frozenset({"signals"})
    )
    untrusted_signals = body.get("signals")
    if not isinstance(untrusted_signals, list):
        raise InvalidRequestError("'signals' must be there, and a list.")
    if len(untrusted_signals) > MAX_SIGNALS:
        raise InvalidRequestError(f"'signals' has more than {MAX_SIGNALS} items; send several requests.")
    return [_signal(index, untrusted) for index, untrusted in enumerate(untrusted_signals)]


def _signal(index: int, untrusted: object) -> NewSignal:
    if not isinstance(untrusted, dict) or not {"type", "value", "note"}.issuperset(untrusted):
        raise InvalidRequestError(f"'signals[{index}]' must be an object with 'type', 'value' and 'note'.")
    try:
        return new_signal(untrusted.get("type"), untrusted.get("value"), untrusted.get("note"))
    except BadSignalError as error:
        raise InvalidRequestError(f"'signals[{index}]': {error}.") from None


def _summary(bank: Bank) -> BankSummary:
    return BankSummary(
        name=bank.name,
        kind=bank.kind,
        action=bank.action,
        thresholds={of: bank.threshold(of) for of in (SignalType.PDQ, SignalType.PHASH)},
        no_report_reason=bank.no_report_reason,
    )


def _answer(changed: Changed) -> ChangeAnswer:
    return ChangeAnswer(generation=changed.generation, changed=changed.changed, unchanged=changed.unchanged)
