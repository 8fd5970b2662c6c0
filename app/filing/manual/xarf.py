"""XARF v4: the open form in which hosts and others take reports of abuse, made and validated by ``xarf``.

Source: the XARF v4 schemas (xarf.org) that the package brings, ``content-csam``. Evidence is never attached.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

import xarf

from app.errors import InvalidRequestError
from app.filing.cybertip.reporter import Reporter
from app.media import PDQ_MINIMUM_QUALITY
from app.report.provenance import Document, told_of

BASELINE: Final = "baseline"
"""What is illegal everywhere; a class of XARF's alone."""
CLASSIFICATIONS: Final = (BASELINE, "A1", "A2", "B1", "B2")
"""How the material is classed, which only a person says."""

_DESCRIPTION: Final = "Found by comparing hashes. No person viewed the file, and no copy was kept."
_URL_ADDED: Final = " The URL was added by a person of the reporter; Cordon did not see it."

_URLS: Final = ("requested_url", "source_url", "page_url")
"""Where its URL is looked for: the file's own place before a page with it."""

_MEDIA: Final = {"image": "image", "video": "video"}


def report(
    stub: Document,
    reporter: Reporter,
    classification: str,
    *,
    ncmec_report_id: str | None,
    added: Mapping[str, str],
) -> bytes:
    """One report as JSON, found valid by the package.

    Args:
        stub: the opened report.
        reporter: who reports and sends.
        classification: of ``CLASSIFICATIONS``, as a person says.
        ncmec_report_id: what the CyberTipline calls it, if it was filed there for real.
        added: provenance that a custodian adds, as ``Said.provenance``; a URL of it is said to be so.

    Raises:
        InvalidRequestError: the report names no URL, which XARF needs, or what it holds is not valid there.
    """
    provenance, seen = stub["provenance"], told_of(stub, {})
    # What a sighting tells comes first.
    url = next((told[key] for told in (seen, added) for key in _URLS if told.get(key)), None)
    if url is None:
        raise InvalidRequestError(
            "XARF reports a URL, and this report names none. Add it (--add source_url=...), or use another "
            "format."
        )
    who = {"org": reporter.company, "contact": reporter.email, "domain": reporter.email.rpartition("@")[2]}
    host = urlsplit(url).hostname or ""
    members: dict[str, Any] = {
        "url": url,
        "classification": classification,
        "detection_method": "hash_match",
        "evidence_source": "automated_scan",
        "media_type": _MEDIA.get(stub["media"]["kind"]),
        "hash_values": _hashes(stub),
        "ncmec_report_id": ncmec_report_id,
        "description": _DESCRIPTION + ("" if any(map(seen.get, _URLS)) else _URL_ADDED),
    }
    if provenance.get("resolved_address"):
        members["source_port"] = provenance["resolved_port"]
    if provenance["how"] == "fetched":
        members |= {"verified_at": provenance["fetched_at"], "verification_method": "automated_crawler"}
    made = xarf.create_report(
        category="content",
        type="csam",
        source_identifier=provenance.get("resolved_address") or host,
        reporter=who,
        sender=who,
        **{name: value for name, value in members.items() if value is not None},
    )
    _check(made.errors)
    if made.report is None:
        raise InvalidRequestError("The xarf package makes no report of this.")
    document = made.report.model_dump(mode="json", by_alias=True, exclude_none=True)
    document["timestamp"] = _moment(provenance.get("fetched_at") or provenance["received_at"])
    text = json.dumps(document, indent=2, ensure_ascii=False)
    # Once more, as whoever receives it will read it.
    _check(xarf.parse(text).errors)
    return f"{text}\n".encode()


def _hashes(stub: Document) -> Mapping[str, str]:
    signals = stub["signals"]
    digests = {name: signals[name] for name in ("md5", "sha1", "sha256")}
    # The schema does not name PDQ, and takes it.
    first = next((each for each in signals["renderings"] if each["quality"] >= PDQ_MINIMUM_QUALITY), None)
    return digests if first is None else digests | {"pdq": first["pdq"]}


def _moment(text: str) -> str:
    return datetime.fromisoformat(text).astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _check(errors: list[Any]) -> None:
    """Refuse what is not valid, naming the field: the message of the package could hold its value."""
    if errors:
        raise InvalidRequestError(f"XARF does not take the report: '{errors[0].field}' is not valid.")
