"""What a sighting tells of where a medium was and who put it there, and what it lacks to be acted on.

Source of what is wanted: 18 USC 2258A(b).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

Document = Mapping[str, Any]
"""An opened report or sighting, as ``app.report.seal.open_report`` gives it."""

ADDABLE: Final = (
    "requested_url",
    "host",
    "fetched_at",
    "received_at",
    "source_url",
    "page_url",
    "profile_url",
    "platform",
    "account_id",
    "account_name",
    "post_id",
    "posted_at",
    "uploaded_at",
    "uploader_ip",
    "uploader_port",
)
"""What a custodian may add to the provenance of a report."""


@dataclass(frozen=True)
class Gap:
    """Something that the provenance of a report lacks.

    Attributes:
        any_of: keys of ``ADDABLE``; one of them closes the gap.
        words: what is missing, for a person.
    """

    any_of: tuple[str, ...]
    words: str


def gaps(stub: Document, added: Mapping[str, str] | None = None) -> tuple[Gap, ...]:
    """What the provenance of a sighting lacks for anybody to act on the report.

    A fetched sighting needs the requested URL, a host and the time of fetching; an uploaded one the time of
    receipt and one of account_id, profile_url, uploader_ip and source_url.

    Args:
        stub: the opened report or sighting.
        added: what a custodian adds, as ``Said.provenance``.
    """
    told = told_of(stub, added or {})
    if is_fetched(stub):
        wanted: tuple[Gap, ...] = (
            Gap(("requested_url",), "the URL that was requested"),
            Gap(("host",), "the host that it was fetched from"),
            Gap(("fetched_at",), "when it was fetched"),
        )
    else:
        wanted = (
            Gap(("received_at",), "when it was received"),
            Gap(
                ("account_id", "profile_url", "uploader_ip", "source_url"),
                "who uploaded it or where it was: one of account_id, profile_url, uploader_ip, source_url",
            ),
        )
    return tuple(gap for gap in wanted if not any(told.get(key) for key in gap.any_of))


def told_of(stub: Document, added: Mapping[str, str]) -> dict[str, str]:
    """Provenance and context of a sighting by key, as text; what a custodian adds never replaces it."""
    told = {key: str(value) for key, value in stub["context"].items() if key in ADDABLE}
    for key in ("requested_url", "fetched_at", "received_at"):
        if stub["provenance"].get(key):
            told[key] = stub["provenance"][key]
    told = dict(added) | told
    requested = told.get("requested_url")
    if "host" not in told and requested is not None:
        host = _host(requested)
        if host:
            told["host"] = host
    return told


def is_fetched(stub: Document) -> bool:
    """Whether the medium was fetched from a URL, and not handed in."""
    return bool(stub["provenance"]["how"] == "fetched")


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
