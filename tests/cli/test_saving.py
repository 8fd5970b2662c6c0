"""Saved media get harmless names, and replace nothing."""

from pathlib import Path

import pytest

from app.cli.console import UsageError
from app.cli.saving import SaveDirectory, safe_name
from app.cli.sources import Kind, Source

ID = "01J9ZK3V5T8QX2M4N6P8R0S1T2"


@pytest.mark.parametrize(
    ("name", "kind", "told", "expected"),
    [
        ("pictures/holiday.jpeg", Kind.FILE, "jpeg", "holiday.jpeg"),
        ("pictures/holiday.png", Kind.FILE, "jpeg", "holiday.jpg"),
        ("pictures/holiday", Kind.FILE, "png", "holiday.png"),
        ("pictures/été 2.PNG", Kind.FILE, "png", "été_2.PNG"),
        ("a/.htaccess", Kind.FILE, "gif", "htaccess.gif"),
        ("https://a.example/x/cat.webp?size=9", Kind.URL, "webp", "cat.webp"),
        ("https://a.example/%2e%2e%2fetc%2fpasswd", Kind.URL, "png", "passwd.png"),
        ("https://a.example/..", Kind.URL, "png", f"{ID}.png"),
        ("https://a.example/", Kind.URL, "png", f"{ID}.png"),
        ("https://a.example/run.sh", Kind.URL, "png", "run.png"),
        ("https://a.example/a%00b%1b[31m.png", Kind.URL, "png", "a_b_31m.png"),
        ("https://[broken/x.png", Kind.URL, "png", f"{ID}.png"),
        ("-", Kind.STANDARD_INPUT, "jpeg", f"{ID}.jpg"),
        ("x" * 400 + ".png", Kind.FILE, "png", "x" * 150 + ".png"),
    ],
)
def test_names_are_harmless_and_end_as_the_bytes_say(name: str, kind: Kind, told: str, expected: str) -> None:
    """No path, no hidden file, no control character, no ending that a program would run."""
    assert ".".join(safe_name(Source(1, name, kind), ID, told)) == expected


def test_no_name_is_given_twice(tmp_path: Path) -> None:
    """Neither one that is on disk, nor one that was just given, nor a link to nowhere."""
    (tmp_path / "a.png").write_bytes(b"mine")
    (tmp_path / "a-2.png").symlink_to(tmp_path / "nowhere")
    save = SaveDirectory(tmp_path)
    source = Source(1, "a.png", Kind.FILE)
    assert [save.choose(source, ID, "png").name for _ in range(2)] == ["a-3.png", "a-4.png"]


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """Before anything is taken in."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="--save"):
        SaveDirectory(tmp_path / "file" / "below")
