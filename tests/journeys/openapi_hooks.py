"""What schemathesis has to be told of Cordon: how to make its bodies, and which refusals are verdicts.

Read by the ``schemathesis`` command that ``test_openapi`` starts.
"""

import json
import os
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, HookContext, Response
from schemathesis.core.failures import AcceptedNegativeData, Failure, MalformedJson
from schemathesis.openapi.checks import MissingContentType, RejectedPositiveData
from schemathesis.transport import SerializationContext

from tests.journeys.conftest import BANKED, FLAT, HARMLESS, WORDS

MEDIA = st.sampled_from([BANKED, FLAT, HARMLESS, WORDS, HARMLESS[:1000], b""])
NDJSON = "application/x-ndjson"

for media_type in ("image/png", "video/mp4", "application/octet-stream"):
    schemathesis.openapi.media_type(media_type, MEDIA)


@schemathesis.hook
def before_load_schema(_context: HookContext, raw_schema: dict[str, Any]) -> None:
    """The URL that the document's examples name leads to a picture, so that they come to a verdict."""
    text = json.dumps(raw_schema).replace("https://pictures.example/a.jpg", os.environ["PICTURE_URL"])
    raw_schema.update(json.loads(text))


@schemathesis.serializer(NDJSON)
def lines(_context: SerializationContext, value: object) -> bytes:
    """A batch is text; what is none becomes a line of it."""
    return (value if isinstance(value, str) else json.dumps(value)).encode()


@schemathesis.hook
def filter_failure(_context: HookContext, failure: Failure, case: Case[Any], response: Response) -> bool:
    """Whether a failure is one of the gate, rather than something that no document can say.

    No schema knows which media are clear, which hosts may be asked, or what a custodian would sign, so a
    verdict, ``url_refused`` and ``signature_required`` are answers to a valid request. With
    ``answer=status`` an undecidable medium is a 422 without a body, where problems have one. And any text is
    a batch: what is wrong in it is told line by line.
    """
    verdict = "cordon-verdict" in response.headers
    if isinstance(failure, RejectedPositiveData):
        return not verdict and response.json()["code"] not in {"url_refused", "signature_required"}
    if isinstance(failure, MissingContentType | MalformedJson):
        return not (verdict and not response.content and case.query.get("answer") == "status")
    if isinstance(failure, AcceptedNegativeData):
        return case.media_type != NDJSON
    return True
