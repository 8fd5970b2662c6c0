"""What is to be taken in is found and checked before anything is taken in."""

import io
import os
from pathlib import Path

import pytest

from app.cli.console import UsageError
from app.cli.sources import Kind, ListFormat, Source, listed, named, open_file


def told(text: str, written_as: ListFormat) -> list[tuple[int, str, Kind]]:
    found = listed(io.BytesIO(text.encode()), written_as)
    return [(source.line, source.name, source.kind) for source in found]


def test_directories_are_expanded_in_sorted_order(tmp_path: Path) -> None:
    """All files below; no link to a directory is followed, which could lead round for ever.

    Such a link, and what is no plain file, stays in and fails: what was not looked at is never called clean.
    """
    (tmp_path / "b" / "deep").mkdir(parents=True)
    for name in ("b/deep/2.png", "b/1.png", "a.png", "c.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "b" / "round").symlink_to(tmp_path)
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "missing")
    os.mkfifo(tmp_path / "pipe")
    found = [Path(source.name).relative_to(tmp_path).as_posix() for source in named([str(tmp_path)])]
    assert found == [
        "a.png",
        "b/1.png",
        "b/deep/2.png",
        "b/round",
        "c.png",
        "link.png",
        "nowhere.png",
        "pipe",
    ]
    for name in ("b/round", "nowhere.png", "pipe"):
        with pytest.raises(OSError, match=r"not a plain file|No such file"):
            open_file(tmp_path / name)


def test_urls_paths_and_standard_input_are_told_apart(tmp_path: Path) -> None:
    """A scheme makes a URL, even one that the fetcher will refuse."""
    file = tmp_path / "a.png"
    file.write_bytes(b"x")
    arguments = ["HTTPS://pictures.example/a.jpg", str(file), "gopher://x", "file:///etc/passwd"]
    assert [source.kind for source in named(arguments)] == [Kind.URL, Kind.FILE, Kind.URL, Kind.URL]
    assert [source.line for source in named(arguments)] == [1, 2, 3, 4]


@pytest.mark.parametrize("name", ["missing", "pipe", "/dev/zero", "nul\0byte"])
def test_what_is_no_source_is_refused_by_name(tmp_path: Path, name: str) -> None:
    """A pipe or a device might never end."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match=r"missing|pipe|zero|nul"):
        named([str(tmp_path / name) if not name.startswith("/") else name])


def test_a_pipe_that_took_the_place_of_a_file_is_not_opened(tmp_path: Path) -> None:
    """Opening it would wait for a writer."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a plain file"):
        open_file(tmp_path / "pipe")


def test_a_list_of_lines_skips_blanks_and_comments(tmp_path: Path) -> None:
    """Names keep their spaces, and bytes that are no UTF-8; numbers are those of the file."""
    (tmp_path / " spaced .png").write_bytes(b"x")
    odd = os.fsencode(tmp_path) + b"/\xff.png"
    Path(os.fsdecode(odd)).write_bytes(b"x")
    text = f"# a list\n\nhttps://a.example/1.jpg\r\n{tmp_path}/ spaced .png\n".encode() + odd
    found = listed(io.BytesIO(text), ListFormat.LINES)
    assert [source.line for source in found] == [3, 4, 5]
    assert found[2].path.read_bytes() == b"x"


def test_json_lines_bring_a_context() -> None:
    """The same objects that the batch takes."""
    text = '{"url": "https://a.example/1.jpg", "context": {"client_ref": "row-1", "tags": ["x"]}}\n'
    (source,) = listed(io.BytesIO(text.encode()), ListFormat.JSONL)
    assert source.context.said() == {"client_ref": "row-1", "tags": ["x"]}


def test_csv_brings_a_context_by_column() -> None:
    """Empty cells say nothing; tags are parted by semicolons; fields may span lines."""
    text = (
        "\ufeffurl,client_ref,uploader_port,tags,account_name\n"
        'https://a.example/1.jpg,row-1,443,a;b,"two\nlines"\n'
        "https://a.example/2.jpg,,,,\n"
    )
    first, second = listed(io.BytesIO(text.encode()), ListFormat.CSV)
    assert first.context.said() == {
        "client_ref": "row-1",
        "uploader_port": 443,
        "tags": ["a", "b"],
        "account_name": "two\nlines",
    }
    assert second.context.said() == {}
    assert (first.line, second.line) == (3, 4)


@pytest.mark.parametrize(
    ("text", "written_as", "why"),
    [
        ("https://a.example/\n/not/there\n", ListFormat.LINES, "line 2 of the list: /not/there"),
        ("-\n", ListFormat.LINES, "no meaning"),
        ("{}\n", ListFormat.JSONL, "line 1 of the list: name one"),
        ("\n{not json}\n", ListFormat.JSONL, "line 2 of the list: not valid JSON"),
        ("[" * 100_000, ListFormat.JSONL, "not valid JSON"),
        ('{"url": "https://a.example/", "extra": 1}', ListFormat.JSONL, "line 1"),
        ('{"url": "/etc/passwd"}', ListFormat.JSONL, "'url' holds no URL"),
        ('{"url": "https://a.example/", "context": {"odd": 1}}', ListFormat.JSONL, "unknown key"),
        ("url,odd\nhttps://a.example/,1\n", ListFormat.CSV, "unknown column 'odd'"),
        ("client_ref\n1\n", ListFormat.CSV, "a column 'url' or 'source'"),
        ("url,client_ref\nhttps://a.example/\n", ListFormat.CSV, "line 2 of the list: not as many"),
        ("url,url\na,b\n", ListFormat.CSV, "twice"),
        ('url\n"https://a.example/\n', ListFormat.CSV, "line 2"),
        ("url,posted_at\nhttps://a.example/,yesterday\n", ListFormat.CSV, "posted_at"),
        ("", ListFormat.CSV, "line 1"),
    ],
)
def test_a_bad_line_is_named_by_its_number(text: str, written_as: ListFormat, why: str) -> None:
    """A URL that was scraped from somewhere is never taken for a path of this machine."""
    with pytest.raises(UsageError, match=why):
        told(text, written_as)


def test_the_path_of_a_source_stands_in_no_repr() -> None:
    """A repr ends up in tracebacks and logs."""
    assert "secret" not in repr(Source(1, "/home/secret.png", Kind.FILE))
