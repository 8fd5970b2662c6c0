"""Which reports the worker may approve and file with no person looking at them. All others wait for one.

Read from the stub alone, by the gate before it seals to the worker, and by the worker again. What counts is a
match of the very bytes, or of the whole picture as it stands, nearly bit for bit.
"""

from typing import Final

from app.media import DIGEST_TYPES, Background, BankAction, BankKind, SignalType
from app.report.provenance import Document, gaps

MINIMUM_QUALITY: Final = 80
"""Least PDQ quality, 0 to 100, of a picture that is filed by its PDQ."""


def may_file(stub: Document, *, distance: int) -> bool:
    """Whether nobody has to look at a report or sighting before it is filed.

    Args:
        stub: as it is sealed.
        distance: largest PDQ distance in bits, ``CORDON_AUTOFILE_DISTANCE``.
    """
    return (
        stub["bank_kind"] == BankKind.CSAM.value
        and stub["test"] is False
        and not gaps(stub)
        and any(_is_certain(stub, match, distance) for match in stub["matches"])
    )


def _is_certain(stub: Document, match: Document, distance: int) -> bool:
    if match["bank_kind"] != BankKind.CSAM.value or match["action"] != BankAction.REPORT.value:
        return False
    if match["signal"] in {each.value for each in DIGEST_TYPES}:
        return True
    return (
        match["signal"] == SignalType.PDQ.value
        and match["variant"] is None
        and 0 <= match["distance"] <= distance
        and match["quality"] >= MINIMUM_QUALITY
        # Neither an entry that waits for a person itself, nor a picture nearer to something harmless.
        and match["parked"] is False
        and match["suppressors"] == []
        and _is_one_whole_picture(stub)
        and _is_canonical(stub, match)
    )


def _is_one_whole_picture(stub: Document) -> bool:
    """Whether the medium is one still picture, and nothing had to be laid behind it."""
    renderings = stub["signals"]["renderings"]
    return (
        stub["media"]["kind"] == "image"
        and stub["media"]["frames"] == 1
        and len(renderings) == 1
        and renderings[0]["background"] == Background.NONE.value
    )


def _is_canonical(stub: Document, match: Document) -> bool:
    """Whether the hash that matched is one of a close look; a quick one makes no pHash."""
    (seen,) = stub["signals"]["renderings"]
    return bool(seen["phash"]) and (seen["pdq"], seen["quality"]) == (match["query_value"], match["quality"])
