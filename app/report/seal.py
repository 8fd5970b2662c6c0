"""Sealing to custodians with age, and opening again. A sealed file is an age file, readable by ``age -d``.

Whoever seals needs public keys alone; nothing here can open a report without a custodian's identity.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final

from app.custody.identity import Identity, encrypt
from app.errors import ConflictError, InvalidRequestError, NotReadyError, ReportNotStoredError
from app.report.draft import STUB_VERSION

_DEEPEST: Final = 32
"""Levels of a document; a report has eight at most."""


def seal(document: bytes, public_keys: Sequence[str]) -> bytes:
    """Encrypt a document to each of the age recipients. Blocking, as ``app.custody.identity.encrypt``.

    Raises:
        ReportNotStoredError: there is no recipient, one of them is none, or a plugin did not seal.
    """
    if not public_keys:
        raise ReportNotStoredError("no custodian is known to seal to; see 'cordon custodian add'")
    try:
        return encrypt(document, public_keys)
    except InvalidRequestError:
        raise ReportNotStoredError("sealing failed; is every custodian's key an age public key?") from None
    except NotReadyError as error:
        raise ReportNotStoredError(str(error)) from None


def digest(sealed: bytes) -> bytes:
    """SHA-256 of a sealed file, as the audit log records it: 32 bytes."""
    return hashlib.sha256(sealed).digest()


def _shallow(document: object) -> object:
    """The document, if all that is done with it comes to an end however it is nested.

    Raises:
        RecursionError: it is nested deeper than any report.
    """
    level = [document]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return document
    raise RecursionError


def open_report(
    untrusted_sealed: bytes, identity: Identity, *, report_id: str | None = None
) -> dict[str, Any]:
    """Decrypt a sealed report to its document.

    A good seal does not prove who sealed it: anyone can seal to a public key. For a report of the store,
    take the file from ``app.store.reports.sealed.authentic``, which checks it against the audit log.

    Args:
        untrusted_sealed: the age file.
        identity: a custodian's.
        report_id: the report it must be; None for a file that came by itself.

    Raises:
        InvalidRequestError: it is no sealed report, or sealed to other custodians.
        ConflictError: it is another report.
    """
    try:
        document = _shallow(json.loads(identity.decrypt(untrusted_sealed)))
    except RecursionError:
        document = None
    except (InvalidRequestError, ValueError):
        raise InvalidRequestError(
            "This identity does not open it, or it is no sealed report. What was sealed before somebody was "
            "added opens to them once another custodian ran 'cordon report reseal'."
        ) from None
    if not isinstance(document, dict) or document.get("stub_version") != STUB_VERSION:
        raise InvalidRequestError(
            "It is sealed to this identity, but is no report that this Cordon can read."
        )
    if report_id is not None and document.get("report_id") != report_id:
        raise ConflictError("The sealed file is that of another report: the database was tampered with.")
    return document
