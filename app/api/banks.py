"""Banks over HTTP: their policies and their entries. A change is in force everywhere within seconds."""

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from app.api import bodies, problems
from app.api.edge import Key, require_scope
from app.api.services import InServices, scope
from app.banks.lists import (
    EMPTY_FILE,
    MAX_NOTE_CHARACTERS,
    MAX_ORIGIN_CHARACTERS,
    MOMENT_PATTERN,
    BadSignalError,
    new_origin,
    new_signal,
)
from app.entries import PLAIN_TEXT_PATTERN, Bank, NewSignal, Origin
from app.errors import InvalidRequestError
from app.media import (
    PDQ_DEFAULT_THRESHOLD,
    PDQ_MINIMUM_QUALITY,
    PHASH_DEFAULT_THRESHOLD,
    BankAction,
    BankKind,
    SignalType,
    Tier,
)
from app.store.banks import bank_signals, banks, entry_marks
from app.store.banks.bank_signals import Changed
from app.store.keys import Scope

router = APIRouter(tags=["banks"])

MAX_SIGNALS: Final = 10_000
MAX_POLICY_BYTES: Final = 64 * 1024
_MAX_BODY_BYTES: Final = 16 * 1024 * 1024

BankName = Annotated[str, Path(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="The bank's name.")]
BankKey = Annotated[Key, scope("bank")]
TierAction = Literal["report", "block", "observe"]

PROBLEMS_OF_SIGNALS: Final = problems.documented(
    "not_found", "too_large", "unsupported_media_type", "invalid_request"
)
_PROBLEMS_OF_POLICY: Final = problems.documented(
    "conflict", "too_large", "unsupported_media_type", "invalid_request"
)

_NO_REASON: Final[dict[str, JsonValue]] = {"no_report_reason": {"type": "null"}}
_REASON: Final[dict[str, JsonValue]] = {"no_report_reason": {"type": "string", "pattern": r"\S"}}
_HARMFUL: Final[dict[str, JsonValue]] = {
    "kind": {"enum": [kind for kind in BankKind if kind is not BankKind.CSAM]}
}
_REPORT, _BLOCK, _OBSERVE = BankAction.REPORT, BankAction.BLOCK, BankAction.OBSERVE


def _tiers(strong: list[JsonValue], near: list[JsonValue], *required: JsonValue) -> dict[str, JsonValue]:
    tiers: dict[str, JsonValue] = {
        "properties": {"strong": {"enum": strong}, "near": {"enum": near}},
        "required": list(required),
    }
    return {"tiers": tiers}


def _policy(title: str, *members: dict[str, JsonValue], required: list[JsonValue]) -> JsonValue:
    properties = {name: schema for each in members for name, schema in each.items()}
    return {"title": title, "properties": properties, "required": ["kind", "action", *required]}


def _acts(action: BankAction) -> dict[str, JsonValue]:
    return {"action": {"const": action}}


_CSAM: Final[dict[str, JsonValue]] = {"kind": {"const": BankKind.CSAM}}
_ONE_TIER: Final[list[JsonValue]] = ["tiers"]
_ACTIONS: Final[list[JsonValue]] = [_REPORT, _BLOCK, _OBSERVE]
_BOTH: Final = ("strong", "near")
_POLICIES: Final[list[JsonValue]] = [
    _policy("csam, reported", _CSAM, _acts(_REPORT), _tiers([_REPORT], [_REPORT]), _NO_REASON, required=[]),
    _policy(
        "csam, near matches only blocked",
        *(_CSAM, _acts(_REPORT), _tiers([_REPORT], [_BLOCK], "near"), _REASON),
        required=["tiers", "no_report_reason"],
    ),
    _policy(
        "csam, all but digests only blocked",
        *(_CSAM, _acts(_REPORT), _tiers([_BLOCK], [_BLOCK], *_BOTH), _REASON),
        required=["tiers", "no_report_reason"],
    ),
    _policy(
        "csam, only blocked",
        *(_CSAM, _acts(_BLOCK), _tiers([_BLOCK], [_BLOCK]), _REASON),
        required=["no_report_reason"],
    ),
    *(
        _policy(
            f"Not csam: {action}, strong {strong}",
            *(_HARMFUL, _acts(action), _tiers([strong], near, *needed), _NO_REASON),
            required=_ONE_TIER if needed else [],
        )
        for action, strong, near, needed in (
            (_REPORT, _REPORT, _ACTIONS, ()),
            (_REPORT, _BLOCK, _ACTIONS[1:], _BOTH),
            (_REPORT, _OBSERVE, _ACTIONS[2:], _BOTH),
            (_BLOCK, _BLOCK, _ACTIONS[1:], ()),
            (_BLOCK, _OBSERVE, _ACTIONS[2:], _BOTH),
            (_OBSERVE, _OBSERVE, _ACTIONS[2:], ()),
        )
    ),
    _policy(
        "What is harmless",
        {"kind": {"const": BankKind.OTHER}},
        _acts(BankAction.SUPPRESS),
        {"tiers": {"maxProperties": 0}},
        {
            "thresholds": {
                "properties": {
                    of.value: {"maximum": most} for of, most in banks.LARGEST_SUPPRESSION_THRESHOLDS.items()
                }
            }
        },
        _NO_REASON,
        required=[],
    ),
]
"""What ``app.store.banks.banks`` lets a bank be, as a schema."""


def number(value: object) -> object:
    """Take a JSON number alone: pydantic would also read ``"31"`` and ``true`` as integers."""
    if type(value) in {int, float}:
        return value
    message = "must be an integer"
    raise ValueError(message)


class Thresholds(BaseModel):
    """Largest Hamming distances in bits that still match; a type that is left out has its default."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    pdq: Annotated[int, Field(ge=0, le=banks.LARGEST_THRESHOLDS[SignalType.PDQ]), BeforeValidator(number)] = (
        PDQ_DEFAULT_THRESHOLD
    )
    phash: Annotated[
        int, Field(ge=0, le=banks.LARGEST_THRESHOLDS[SignalType.PHASH]), BeforeValidator(number)
    ] = PHASH_DEFAULT_THRESHOLD


class Tiers(BaseModel):
    """What a match does by how close it is; a tier that is left out does what ``action`` says."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    # A factory, so that the document names no default: that is the bank's action.
    strong: TierAction = Field(default_factory=lambda: "report")
    near: TierAction = Field(default_factory=lambda: "report")


class BankRequest(BaseModel):
    """What a bank is and does."""

    model_config = ConfigDict(
        extra="forbid", hide_input_in_errors=True, json_schema_extra={"oneOf": _POLICIES}
    )

    kind: BankKind = Field(description="Fixed for good. Matches in a `test` bank can never be filed.")
    action: BankAction = Field(
        description="`observe` leaves the verdict as it is; a csam bank cannot. `suppress` cancels near "
        "matches of other banks, needs the scope `bank:suppress`, and stays what it is."
    )
    thresholds: Thresholds = Field(
        default_factory=Thresholds,
        description="Of a `suppress` bank the defaults are 16 and 2, the largest 31 and 6.",
        examples=[{"pdq": 31}],
    )
    tiers: Tiers = Field(
        default_factory=Tiers,
        description="PDQ within 16 bits is `strong`, farther is `near`, and so is pHash always. A farther "
        "match never does more than a closer one, and neither more than `action`, which holds for digests.",
        examples=[{"near": "report"}],
    )
    minimum_quality: Annotated[
        int,
        Field(ge=PDQ_MINIMUM_QUALITY, le=banks.LARGEST_MINIMUM_QUALITY),
        BeforeValidator(number),
    ] = Field(
        PDQ_MINIMUM_QUALITY,
        description="PDQ matches of pictures of a lower quality do not count for this bank.",
    )
    no_report_reason: str | None = Field(
        None,
        description="Why a csam bank blocks some matches, or all, without a report; needed there, refused "
        "elsewhere.",
        json_schema_extra={"maxLength": banks.MAX_REASON_CHARACTERS, "pattern": PLAIN_TEXT_PATTERN},
    )


class BankSummary(BaseModel):
    """A bank and its policy."""

    name: str
    kind: BankKind
    action: BankAction
    thresholds: dict[SignalType, int]
    tiers: dict[Tier, BankAction] = Field(description="What it does on a strong and on a near match.")
    minimum_quality: int
    no_report_reason: str | None


class BankList(BaseModel):
    """All banks, by name."""

    banks: list[BankSummary]


def _value_schema(of: SignalType) -> dict[str, Any]:
    digits = of.size_bytes * 2
    refused = ["0" * digits] + ([EMPTY_FILE[of].hex()] if of in EMPTY_FILE else [])
    return {
        "title": of,
        "properties": {
            "type": {"const": of},
            "value": {"pattern": f"^[0-9a-fA-F]{{{digits}}}$", "not": {"enum": refused}},
        },
    }


_DIGITS: Final = ", ".join(f"{of.size_bytes * 2} for `{of.value}`" for of in SignalType)


def _said(name: str, description: str) -> Any:  # noqa: ANN401 - what the framework declares it as
    """What a source says of signals; plain text of bounded length."""
    schema: dict[str, JsonValue] = {"maxLength": MAX_ORIGIN_CHARACTERS[name], "pattern": PLAIN_TEXT_PATTERN}
    return Field(None, description=description, json_schema_extra=schema)


class SignalRequest(BaseModel):
    """One signal for a bank. Zeros and the digest of an empty file are refused: they match what is blank."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"oneOf": [_value_schema(of) for of in SignalType]}
    )

    type: SignalType
    value: str = Field(description=f"Hex digits, in either case: {_DIGITS}.")
    note: str | None = Field(
        None,
        description="A word of your own, for whoever looks after the bank.",
        json_schema_extra={"maxLength": MAX_NOTE_CHARACTERS, "pattern": PLAIN_TEXT_PATTERN},
    )
    reference: str | None = _said("reference", "Its id at the source.")
    classification: str | None = _said("classification", "What it is, in the source's terms, like `A1`.")
    restrictions: str | None = _said("restrictions", "What it may be used for, and by whom.")
    listed_at: str | None = Field(
        None,
        description="When the source listed it: an RFC 3339 date, or date and time with offset.",
        json_schema_extra={"pattern": MOMENT_PATTERN},
    )


_NOTHING_SAID: Final[dict[str, JsonValue]] = {"type": "null"}
_OF_A_SOURCE: Final = ("reference", "classification", "restrictions", "listed_at")
_SOURCES: Final[list[JsonValue]] = [
    {
        "title": "Of a source",
        "required": ["source"],
        "properties": {"source": {"type": "string", "pattern": r"\S"}},
    },
    {
        "title": "Of no source",
        "properties": {
            **dict.fromkeys(("source", "classification", "restrictions"), _NOTHING_SAID),
            "signals": {"items": {"properties": dict.fromkeys(_OF_A_SOURCE, _NOTHING_SAID)}},
        },
    },
]


class SignalsRequest(BaseModel):
    """Signals for a bank, all or none, and what one source says of them."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"oneOf": _SOURCES})

    signals: list[SignalRequest] = Field(max_length=MAX_SIGNALS)
    source: str | None = _said("source", "Who gives all of them.")
    classification: str | None = _said("classification", "What they are, where a signal does not say it.")
    restrictions: str | None = _said("restrictions", "The same of what they may be used for.")


class ChangeAnswer(BaseModel):
    """What a change did; it is in force once the status tells this generation or a later one."""

    generation: int
    changed: int
    unchanged: int = Field(description="Signals that were there already, or not there to be removed.")
    kept: int = Field(
        description="Signals that this source withdrew and another stands by, so that they stay."
    )


_BANK_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/BankRequest"},
                "example": {"kind": "csam", "action": "report", "thresholds": {"pdq": 31}},
            }
        },
    }
}
SIGNALS_BODY: Final[dict[str, Any]] = {
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


@router.get(
    "/v1/banks",
    name="banks",
    responses=problems.documented(),
    response_description="All of them.",
    summary="All banks and their policies",
)
async def list_banks(at: InServices, key: BankKey) -> BankList:  # noqa: ARG001 - checked by its dependency
    """What is in force of them, with counts and ages, stands in `/v1/status`."""
    async with at.database.connect() as connection:
        return BankList(banks=[_summary(bank) for bank in await banks.every(connection)])


@router.put(
    "/v1/banks/{name}",
    name="bank",
    responses=_PROBLEMS_OF_POLICY
    | {
        200: {"description": "It was there, and has this policy now."},
        201: {"model": BankSummary, "description": "It was made."},
    },
    openapi_extra=_BANK_BODY,
    summary="Make a bank, or change its policy",
)
async def put_bank(
    request: Request, at: InServices, key: BankKey, name: BankName, response: Response
) -> BankSummary:
    """201 if it was made, 200 if it was there. The kind of a bank never changes."""
    wanted = await bodies.read_model(request, MAX_POLICY_BYTES, BankRequest)
    if wanted.action is BankAction.SUPPRESS:
        require_scope(key, Scope.SUPPRESS)
    thresholds = wanted.thresholds.model_dump(exclude_unset=True)
    tiers = wanted.tiers.model_dump(exclude_unset=True)
    policy = banks.Policy(
        wanted.action,
        {SignalType(of): bits for of, bits in thresholds.items()},
        {Tier(tier): BankAction(action) for tier, action in tiers.items()},
        wanted.minimum_quality,
        wanted.no_report_reason,
    )
    async with at.database.begin() as connection:
        bank, made = await banks.put(connection, name, wanted.kind, policy, by=key.id)
    response.status_code = 201 if made else 200
    return _summary(bank)


@router.post(
    "/v1/banks/{name}/signals",
    name="bank_signals",
    responses=PROBLEMS_OF_SIGNALS,
    response_description="What was changed.",
    openapi_extra=SIGNALS_BODY,
    summary="Add up to 10,000 signals, all or none",
)
async def add_signals(request: Request, at: InServices, key: BankKey, name: BankName) -> ChangeAnswer:
    """Signals that are there already are counted as unchanged; what a source newly says of them is kept.

    A wrong one is named by its index.
    """
    signals, origin = await read_signals(request)
    async with at.database.begin() as connection:
        if (await banks.get(connection, name)).suppresses:
            require_scope(key, Scope.SUPPRESS)
        return _answer(await bank_signals.add(connection, name, signals, by=key.id, origin=origin))


@router.post(
    "/v1/banks/{name}/signals/remove",
    name="bank_signals_remove",
    responses=PROBLEMS_OF_SIGNALS,
    response_description="What was changed.",
    openapi_extra=SIGNALS_BODY,
    summary="Remove up to 10,000 signals, all or none",
)
async def remove_signals(request: Request, at: InServices, key: BankKey, name: BankName) -> ChangeAnswer:
    """Signals that are not there are counted as unchanged.

    With a `source`, that source alone withdraws them: what another one gave too, or was put there without a
    source, stays. The rest of what is said of them is not looked at.
    """
    signals, origin = await read_signals(request)
    async with at.database.begin() as connection:
        changed = await bank_signals.remove(connection, name, signals, by=key.id, origin=origin)
    await entry_marks.release_reports(at.database)
    return _answer(changed)


async def read_signals(request: Request) -> tuple[list[NewSignal], Origin | None]:
    """The signals of a body, each checked; and what is said of all of them.

    Raises:
        MalformedError, TooLargeError, InvalidRequestError: naming the index of the first that is wrong.
    """
    body = bodies.json_object(await bodies.read_json(request, _MAX_BODY_BYTES), _OF_ALL)
    untrusted_signals = body.pop("signals", None)
    if not isinstance(untrusted_signals, list):
        raise InvalidRequestError("'signals' must be there, and a list.")
    if len(untrusted_signals) > MAX_SIGNALS:
        raise InvalidRequestError(f"'signals' has more than {MAX_SIGNALS} items; send several requests.")
    try:
        origin = new_origin(body)
    except BadSignalError as error:
        raise InvalidRequestError(f"{str(error).capitalize()}.") from None
    of_a_source = origin is not None and origin.source is not None
    if not of_a_source and body.get("source") is not None:
        raise InvalidRequestError("'source' is blank: name who gives them, or leave it out.")
    if not of_a_source and any(said is not None for said in body.values()):
        raise InvalidRequestError("'source': name who says the rest.")
    signals = [
        _signal(index, untrusted, of_a_source=of_a_source)
        for index, untrusted in enumerate(untrusted_signals)
    ]
    return signals, origin


_OF_ALL: Final = frozenset(SignalsRequest.model_fields)
_OF_ONE: Final = frozenset(SignalRequest.model_fields)


def _signal(index: int, untrusted: object, *, of_a_source: bool) -> NewSignal:
    if not isinstance(untrusted, dict) or not _OF_ONE.issuperset(untrusted):
        known = ", ".join(f"'{name}'" for name in SignalRequest.model_fields)
        raise InvalidRequestError(f"'signals[{index}]' must be an object of {known}.")
    if not of_a_source and any(untrusted.get(name) is not None for name in _OF_A_SOURCE):
        raise InvalidRequestError(f"'signals[{index}]' tells what a source says: name it as 'source'.")
    try:
        return new_signal(untrusted.get("type"), untrusted.get("value"), untrusted.get("note"), untrusted)
    except BadSignalError as error:
        raise InvalidRequestError(f"'signals[{index}]': {error}.") from None


def _summary(bank: Bank) -> BankSummary:
    return BankSummary(
        name=bank.name,
        kind=bank.kind,
        action=bank.action,
        thresholds={of: bank.threshold(of) for of in (SignalType.PDQ, SignalType.PHASH)},
        tiers={} if bank.suppresses else {tier: bank.action_of(tier) for tier in Tier},
        minimum_quality=bank.minimum_quality,
        no_report_reason=bank.no_report_reason,
    )


def _answer(changed: Changed) -> ChangeAnswer:
    return ChangeAnswer(
        generation=changed.generation,
        changed=changed.changed,
        unchanged=changed.unchanged,
        kept=changed.kept,
    )
