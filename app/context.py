"""What a caller says of a medium: the ``context`` of the contract, checked key by key.

The context is secret once a medium matches, so its ``repr`` is masked and errors name keys, not values.
"""

import json
import re
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Any, Final

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    IPvAnyAddress,
    ValidationError,
    WithJsonSchema,
)

from app.errors import InvalidContextError

MAX_CONTEXT_BYTES: Final = 16 * 1024
MAX_URL_CHARACTERS: Final = 2083
MAX_STRING_CHARACTERS: Final = 256
MAX_TAGS: Final = 50
MAX_TAG_CHARACTERS: Final = 64


_RFC_3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _rfc_3339(value: object) -> object:
    """Take RFC 3339 text alone: pydantic would also read numbers, and text of numbers, as times."""
    if isinstance(value, datetime) or (isinstance(value, str) and _RFC_3339.fullmatch(value)):
        return value
    message = "must be RFC 3339 text with an offset, like 2026-01-31T12:00:00Z"
    raise ValueError(message)


def _address(value: object) -> object:
    """Take text alone: pydantic would also read ``5`` as 0.0.0.5."""
    if isinstance(value, str | IPv4Address | IPv6Address):
        return value
    message = "must be the text of an IPv4 or IPv6 address"
    raise ValueError(message)


def _port(value: object) -> object:
    """Take a number, or its digits as a CSV file holds them: pydantic would also read ``true`` as 1.

    ``443.0`` is an integer where JSON Schema is spoken, as it is in what describes the API.
    """
    whole = type(value) is int or (isinstance(value, float) and value.is_integer())
    if whole or (isinstance(value, str) and value.isascii() and value.isdigit()):
        return value
    message = "must be a port number"
    raise ValueError(message)


Url = Annotated[str, Field(min_length=1, max_length=MAX_URL_CHARACTERS)]
Text = Annotated[str, Field(min_length=1, max_length=MAX_STRING_CHARACTERS)]
Tag = Annotated[str, Field(min_length=1, max_length=MAX_TAG_CHARACTERS)]
Time = Annotated[AwareDatetime, BeforeValidator(_rfc_3339)]
Address = Annotated[
    IPvAnyAddress,
    BeforeValidator(_address),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "ipv4"}, {"type": "string", "format": "ipv6"}]}),
]
Port = Annotated[int, Field(ge=1, le=65535), BeforeValidator(_port)]


class Context(BaseModel):
    """What a caller says of a medium. All keys are optional; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, strict=False)

    source_url: Url | None = Field(None, description="URL of the medium itself.")
    page_url: Url | None = Field(None, description="URL of the page that showed it.")
    profile_url: Url | None = Field(None, description="URL of the account's profile.")
    platform: Text | None = Field(None, description="Name of the platform.")
    account_id: Text | None = Field(None, description="The account's id on the platform.")
    account_name: Text | None = Field(None, description="The account's name as shown.")
    post_id: Text | None = Field(None, description="The post's id on the platform.")
    posted_at: Time | None = Field(None, description="When it was posted; RFC 3339 with offset.")
    uploaded_at: Time | None = Field(None, description="When it was uploaded; RFC 3339 with offset.")
    uploader_ip: Address | None = Field(None, description="IPv4 or IPv6 address of the uploader.")
    uploader_port: Port | None = Field(None, description="Port of the uploader.")
    client_ref: Text | None = Field(None, description="The caller's own reference; told back in a batch.")
    tags: Annotated[tuple[Tag, ...], Field(max_length=MAX_TAGS)] | None = Field(
        None, description="Free labels."
    )

    def __repr__(self) -> str:
        return "<Context>"

    __str__ = __repr__

    def said(self) -> dict[str, Any]:
        """The keys the caller gave, as JSON values."""
        return self.model_dump(mode="json", exclude_defaults=True)


def parse_context(untrusted: object) -> Context:
    """Check a context that came as decoded JSON; None stands for an empty one.

    Raises:
        InvalidContextError: naming the key and what is wrong with it.
    """
    if untrusted is None:
        return Context()
    if not isinstance(untrusted, dict):
        raise InvalidContextError("'context' must be a JSON object.")
    try:
        text = json.dumps(untrusted, ensure_ascii=False)
    except (ValueError, RecursionError):
        raise InvalidContextError("'context' holds what cannot be a context.") from None
    if len(text.encode("utf-8", "surrogatepass")) > MAX_CONTEXT_BYTES:
        raise InvalidContextError(f"'context' is larger than {MAX_CONTEXT_BYTES} bytes.")
    try:
        return Context.model_validate(untrusted)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        if first["type"] == "extra_forbidden":
            known = ", ".join(Context.model_fields)
            raise InvalidContextError(f"'context' has an unknown key. Known keys: {known}.") from None
        key = ".".join(str(part) for part in first["loc"])
        problem = first["msg"].removeprefix("Value error, ")
        raise InvalidContextError(f"'context.{key}': {problem}.") from None
