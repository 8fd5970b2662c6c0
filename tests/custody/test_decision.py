"""Signed decisions: taken only as a pinned custodian signed them, to the letter."""

import base64
import contextlib
import dataclasses
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.custody.decision import PREFIX, Action, Decision, sign, verify
from app.custody.identity import Identity, generate
from app.custody.roster import Pinned, Roster
from app.errors import InvalidRequestError, SignatureRequiredError

ADA = generate()
EVE = generate()
ROSTER = Roster((Pinned("ada", ADA.public_key, ADA.signing_public_key),))
(PINNED,) = ROSTER.custodians

APPROVAL = Decision(
    action=Action.APPROVE,
    report_id="01J9ZK3V5T8QX2M4N6P8R0S1T2",
    sealed_sha256=("a" * 64, "b" * 64),
    decided_at=datetime(2026, 11, 26, 2, 0, tzinfo=UTC),
    custodian=PINNED.fingerprint,
    xml_sha256="c" * 64,
    xml=b"a sealed file",
    words=b"another",
)


def _envelope(signed: str, identity: Identity, prefix: bytes = PREFIX) -> bytes:
    signature = base64.b64encode(identity.sign(prefix + signed.encode())).decode()
    return json.dumps({"signature": signature, "signed": signed}).encode()


def _edited(**changes: Any) -> str:
    """What was signed, with members changed or, by ``...``, taken out."""
    members = json.loads(APPROVAL.to_json()) | changes
    kept = {name: value for name, value in members.items() if value is not ...}
    return json.dumps(kept, sort_keys=True, separators=(",", ":"))


@pytest.mark.parametrize(
    "decision",
    [
        APPROVAL,
        dataclasses.replace(
            APPROVAL, action=Action.REJECT, xml=None, xml_sha256=None, disabled_entries=(7, 8)
        ),
        dataclasses.replace(
            APPROVAL,
            action=Action.RESEAL,
            xml=None,
            xml_sha256=None,
            words=None,
            resealed_sha256=("d" * 64, "e" * 64),
        ),
    ],
    ids=["approve", "reject", "reseal"],
)
def test_what_a_custodian_signed_reads_back_the_same(decision: Decision) -> None:
    """However the envelope was written on its way, the document that is kept is the same."""
    document = sign(decision, ADA)
    signed = verify(document, ROSTER)
    assert (signed.decision, signed.document) == (decision, document)
    rewritten = json.dumps(json.loads(document), indent=2).encode()
    assert verify(rewritten, ROSTER) == signed


def test_a_document_tells_nothing_of_what_it_seals() -> None:
    """Its repr neither."""
    assert "sealed file" not in repr(verify(sign(APPROVAL, ADA), ROSTER))


def test_a_stranger_s_signature_and_one_made_for_something_else_are_refused() -> None:
    """Eve signs as herself, then as Ada; Ada's key signed the same bytes under another prefix."""
    as_eve = dataclasses.replace(APPROVAL, custodian=Pinned("eve", EVE.public_key).fingerprint)
    for document, said in (
        (sign(as_eve, EVE), "no pinned custodian"),
        (sign(APPROVAL, EVE), "not good"),
        (_envelope(APPROVAL.to_json(), ADA, b"cordon checkpoint v1\n"), "not good"),
        (_envelope(APPROVAL.to_json(), ADA, b""), "not good"),
    ):
        with pytest.raises(SignatureRequiredError, match=said):
            verify(document, ROSTER)


def test_no_changed_byte_of_a_document_makes_another_decision() -> None:
    """One bit of each, all along. The padding of base64 has bits that mean nothing: those alone pass."""
    document = sign(APPROVAL, ADA)
    original, passed = verify(document, ROSTER), 0
    for at in range(len(document)):
        changed = bytearray(document)
        changed[at] ^= 1
        with contextlib.suppress(SignatureRequiredError):
            assert verify(bytes(changed), ROSTER) == original
            passed += 1
    assert passed <= 1


@pytest.mark.parametrize(
    "signed",
    [
        _edited(version=2),
        _edited(action="file"),
        _edited(report_id="01J"),
        _edited(sealed_sha256=[]),
        _edited(sealed_sha256=["A" * 64]),
        _edited(xml_sha256=None),
        _edited(xml=None),
        _edited(xml="!"),
        _edited(action="reject"),
        _edited(resealed_sha256=["d" * 64]),
        _edited(disabled_entries=[1]),
        _edited(decided_at="2026-11-26T02:00:00"),
        _edited(decided_at="0001-01-01T00:00:00+23:59"),
        _edited(decided_at="9999-12-31T23:59:59-23:59"),
        _edited(decided_at=1),
        _edited(custodian=None),
        _edited(words=...),
        _edited(more=1),
        APPROVAL.to_json().replace(":", ": ", 1),
        APPROVAL.to_json().replace('"version":1', '"version":1,"version":1'),
        "[]",
        "[" * 100_000,
        "1",
    ],
)
def test_what_is_no_decision_is_refused_though_a_custodian_signed_it(signed: str) -> None:
    """There is one writing of each decision, whole."""
    with pytest.raises(SignatureRequiredError, match="no decision that this Cordon can read"):
        verify(_envelope(signed, ADA), ROSTER)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"signature": 1, "signed": 2}', b"\xff", b"[" * 100_000]
)
def test_what_is_no_signed_document_is_refused(body: bytes) -> None:
    with pytest.raises(SignatureRequiredError, match="signed decision"):
        verify(body, ROSTER)


def test_a_custodian_without_a_signing_key_decides_nothing() -> None:
    """Neither by the file nor by the identity."""
    roster = Roster((dataclasses.replace(PINNED, signing_key=None),))
    with pytest.raises(SignatureRequiredError, match="No signing key is pinned for custodian 'ada'"):
        verify(sign(APPROVAL, ADA), roster)
    with pytest.raises(InvalidRequestError, match="holds no signing key"):
        sign(APPROVAL, dataclasses.replace(ADA, signing_seed=None))


def test_who_left_decides_nothing_more_but_what_was_decided_can_be_checked() -> None:
    roster = ROSTER.without_custodian("ada")
    document = sign(APPROVAL, ADA)
    with pytest.raises(SignatureRequiredError, match="no pinned custodian"):
        verify(document, roster)
    assert verify(document, roster, of_then_too=True).decision == APPROVAL


def test_the_signature_is_plain_ed25519_over_the_prefix_and_the_json() -> None:
    """RFC 8032, so that any other program can check it."""
    assert ADA.signing_seed is not None
    document = json.loads(sign(APPROVAL, ADA))
    key = Ed25519PrivateKey.from_private_bytes(ADA.signing_seed).public_key()
    key.verify(base64.b64decode(document["signature"]), b"cordon decision v1\n" + document["signed"].encode())
