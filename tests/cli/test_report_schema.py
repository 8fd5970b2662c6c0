"""``cordon report xsd``: the schema as its host has it, or nothing."""

from pathlib import Path

from tests.cli.conftest import Cordon
from tests.filing.double import Double, running_double
from tests.filing.test_schema import SMALL


def filing_with(double: Double) -> dict[str, str]:
    """Settings of a gate that files with a double."""
    return {"CORDON_CYBERTIP": "double", "CORDON_CYBERTIP_DOUBLE_URL": double.url}


def test_the_schema_is_fetched_whole_or_not_at_all(cordon: Cordon, tmp_path: Path) -> None:
    """What is not there, or no schema, leaves no file; a file that is there is not overwritten."""
    out, small = tmp_path / "fetched.xsd", tmp_path / "small.xsd"
    small.write_bytes(SMALL)
    off = cordon("report", "xsd", "--out", str(out))
    assert (off.code, "CORDON_CYBERTIP" in off.err) == (1, True)
    with running_double() as bare:
        none = cordon("report", "xsd", "--out", str(out), given=filing_with(bare))
    assert (none.code, out.exists()) == (1, False)
    with running_double("--xsd", str(small)) as double:
        assert cordon("report", "xsd", "--out", str(out), given=filing_with(double)).code == 0
        assert cordon("report", "xsd", "--out", str(out), given=filing_with(double)).code == 2
    assert out.read_bytes() == SMALL
    assert out.stat().st_mode & 0o777 == 0o600
