"""Sealing: readable for each custodian and for age itself, for nobody else."""

import json
import subprocess
from pathlib import Path

import pytest

from app.custody.identity import generate, write_identity
from app.errors import ConflictError, InvalidRequestError, ReportNotStoredError
from app.report.seal import digest, open_report, seal
from tests.stubs import canaries, stub


def test_each_recipient_opens_it_and_nobody_else() -> None:
    ada, bob, eve = generate(), generate(), generate()
    document = stub().to_json("01JREPORT")
    sealed = seal(document, [ada.public_key, bob.public_key])
    assert open_report(sealed, ada) == open_report(sealed, bob) == json.loads(document)
    with pytest.raises(InvalidRequestError):
        open_report(sealed, eve)


def test_nothing_of_the_document_stands_in_the_sealed_file() -> None:
    sealed = seal(stub().to_json("01JREPORT"), [generate().public_key])
    assert [canary for canary in canaries() if canary in sealed] == []


def test_debians_age_opens_it_with_the_file_that_keygen_wrote(tmp_path: Path) -> None:
    identity, path, file = generate(), tmp_path / "identity.txt", tmp_path / "report.age"
    write_identity(identity, path)
    document = stub().to_json("01JREPORT")
    file.write_bytes(seal(document, [generate().public_key, identity.public_key]))
    opened = subprocess.run(["age", "-d", "-i", path, file], capture_output=True, check=True)
    assert opened.stdout == document


def test_sealing_to_nobody_is_refused() -> None:
    """An empty list must never look like a sealed report."""
    with pytest.raises(ReportNotStoredError, match="no custodian"):
        seal(b"document", [])


def test_sealing_to_what_is_no_key_is_refused() -> None:
    with pytest.raises(ReportNotStoredError, match="public key"):
        seal(b"document", [generate().public_key, "age1nonsense"])


@pytest.mark.parametrize("untrusted", [b"", b"not an age file", b"age-encryption.org/v1\n"])
def test_what_is_no_sealed_file_is_refused(untrusted: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        open_report(untrusted, generate())


@pytest.mark.parametrize(
    "content", [b"no json", b"[]", b"{}", b'{"stub_version": 99}', b'{"stub_version": "1"}']
)
def test_what_is_sealed_but_no_report_is_refused(content: bytes) -> None:
    identity = generate()
    with pytest.raises(InvalidRequestError):
        open_report(seal(content, [identity.public_key]), identity)


@pytest.mark.parametrize("member", ['{"a":', "["])
@pytest.mark.parametrize("levels", [40, 900, 100_000])
def test_what_is_nested_too_deeply_to_be_shown_is_no_report(member: str, levels: int) -> None:
    """Whoever opens it reads that, and not where a program failed."""
    identity = generate()
    closing = {"[": "]", '{"a":': "}"}[member]
    nested = member * levels + "1" + closing * levels
    document = stub().to_json("01JREPORT")[:-1] + f',"matches":{nested}}}'.encode()
    with pytest.raises(InvalidRequestError, match="no report that this Cordon can read"):
        open_report(seal(document, [identity.public_key]), identity)


def test_a_changed_byte_is_noticed() -> None:
    identity = generate()
    sealed = bytearray(seal(stub().to_json("01JREPORT"), [identity.public_key]))
    sealed[-20] ^= 1
    with pytest.raises(InvalidRequestError):
        open_report(bytes(sealed), identity)


def test_another_reports_file_is_noticed() -> None:
    identity = generate()
    sealed = seal(stub().to_json("01JREPORT"), [identity.public_key])
    assert open_report(sealed, identity, report_id="01JREPORT")["report_id"] == "01JREPORT"
    with pytest.raises(ConflictError, match="tampered"):
        open_report(sealed, identity, report_id="01JANOTHER")


def test_the_digest_is_that_of_sha256sum(tmp_path: Path) -> None:
    file = tmp_path / "report.age"
    file.write_bytes(b"sealed")
    told = subprocess.run(["sha256sum", file], capture_output=True, text=True, check=True).stdout
    assert told.split()[0] == digest(b"sealed").hex()
