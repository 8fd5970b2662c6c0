"""The test picture is the same for ever, and its known hashes are those that the real decoder finds."""

import hashlib
import io
import os
import pty
import subprocess

import pytest
from PIL import Image

from app.cli import testpicture
from tests.cli.conftest import Cordon, pixels_of
from tests.gates import CORDON

SHA256 = "5cd851cba8be396294bd9b0d9299d07b7b3bead6431c7533389425b993a9acf9"


def test_its_bytes_never_change() -> None:
    """A test bank of today must match the picture of tomorrow's Cordon by digest too."""
    assert hashlib.sha256(testpicture.draw()).hexdigest() == SHA256
    assert pixels_of(testpicture.draw()) == (testpicture.WIDTH, testpicture.HEIGHT)


def test_any_reader_of_png_takes_it() -> None:
    """Checksums and lengths are right, though no library wrote them."""
    with Image.open(io.BytesIO(testpicture.draw())) as picture:
        picture.verify()


def test_the_real_decoder_finds_its_known_hashes(cordon: Cordon) -> None:
    """What a test bank holds is what a scan of the picture gives."""
    picture = cordon("test-picture")
    assert (picture.code, picture.err) == (0, "")
    hashed = cordon("bank", "hash", "-", "--json", stdin=picture.out)
    assert {(line["type"], line["value"]) for line in hashed.documents} == set(testpicture.signals())
    assert [line["quality"] for line in hashed.documents if line["type"] == "pdq"] == [100]


def test_it_replaces_no_file(cordon: Cordon) -> None:
    """Exit 2, and the file is as it was."""
    (cordon.home / "test.png").write_bytes(b"mine")
    ran = cordon("test-picture", "--out", "test.png")
    assert ran.code == 2
    assert (cordon.home / "test.png").read_bytes() == b"mine"


def test_it_is_not_poured_into_a_terminal(cordon: Cordon) -> None:
    """Bytes of a picture would be taken for commands by the terminal."""
    ours, theirs = pty.openpty()
    ran = subprocess.run(
        [CORDON, "test-picture"], stdout=theirs, stderr=subprocess.PIPE, env=cordon.environment, check=False
    )
    os.close(theirs)
    assert ran.returncode == 2
    assert b"--out" in ran.stderr
    with pytest.raises(OSError, match="Input/output"):
        os.read(ours, 1)
    os.close(ours)
