"""``docs/limits.md`` names every limit there is, and its default."""

import re
from pathlib import Path

import pytest

from app import formats, settings
from app.settings import GIBIBYTE, MEBIBYTE, HashingSettings, IntakeSettings, Settings

TEXT = (Path(__file__).parents[2] / "docs/limits.md").read_text(encoding="utf-8")
STAGES = (IntakeSettings, HashingSettings)


@pytest.mark.parametrize("name", [name for stage in STAGES for name in stage.model_fields])
def test_every_limit_is_named(name: str) -> None:
    assert f"`CORDON_{name.upper()}`" in TEXT


def test_every_setting_named_is_one() -> None:
    named = {name.lower() for name in re.findall(r"CORDON_([A-Z_]+)", TEXT)}
    known = {name for stage in settings.STAGES.values() for name in stage.model_fields}
    assert named <= known


def test_the_defaults_are_those_in_force() -> None:
    intake, hashing, fetch = IntakeSettings(), HashingSettings(), Settings().fetch
    told = {
        "CORDON_MAX_BYTES": f"{intake.max_bytes // MEBIBYTE} MiB",
        "CORDON_MAX_VIDEO_BYTES": f"{intake.max_video_bytes // GIBIBYTE} GiB",
        "CORDON_UPLOAD_IDLE_SECONDS": f"{intake.upload_idle_seconds:.0f} s",
        "CORDON_UPLOAD_TOTAL_SECONDS": f"{intake.upload_total_seconds:.0f} s",
        "CORDON_FETCH_TOTAL_SECONDS": f"{fetch.fetch_total_seconds:.0f} s",
        "CORDON_MAX_PIXELS": f"{hashing.max_pixels // 10**6} million",
        "CORDON_MAX_DECODE_BYTES": f"{hashing.max_decode_bytes // MEBIBYTE} MiB",
        "CORDON_MAX_FRAMES": f"{hashing.max_frames}",
        "CORDON_DECODE_SECONDS": f"{hashing.decode_seconds:.0f} s",
        "CORDON_SCAN_SECONDS": f"{hashing.scan_seconds:.0f} s",
        "CORDON_DECODER_MEDIA": f"{hashing.decoder_media}",
    }
    rows = [row.split("|") for row in TEXT.splitlines() if row.startswith("|")]
    for name, default in told.items():
        (row,) = [row for row in rows if len(row) == 6 and f"`{name}`" in row[3]]
        assert default in row[2], name


def test_the_formats_are_those_that_are_decoded() -> None:
    (row,) = [row for row in TEXT.splitlines() if row.startswith("| the format |")]
    assert [name.lower() for name in row.split("|")[2].partition(", told")[0].strip().split(", ")] == [
        told.name for told in formats.IMAGES
    ]
