"""A snapshot is whole or not there, is refused when damaged, and answers like the entries it was made of."""

import errno
import fcntl
import os
import re
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from app.entries import Entries
from app.matching import snapshot
from app.matching.index import EntryIndex
from app.matching.snapshot import (
    AbandonedError,
    Snapshot,
    SnapshotError,
    SnapshotWriter,
    builder,
    building,
    open_snapshot,
    prepare,
    remove_others,
    snapshots_in,
)
from app.media import SignalType

NONCE = bytes(range(16))


def entries(of: SignalType, count: int, first_id: int = 1, bank: int = 1) -> Entries:
    rng = np.random.default_rng(first_id)
    return Entries(
        type=of,
        ids=np.arange(first_id, first_id + count, dtype=np.int64),
        banks=np.full(count, bank, np.int64),
        values=rng.integers(0, 256, (count, of.size_bytes), np.uint8),
    )


SOME = [
    entries(SignalType.PDQ, 5_000),
    entries(SignalType.PDQ, 5_000, 5_001, bank=2),
    entries(SignalType.PHASH, 9_000, 20_001),
    entries(SignalType.MD5, 300, 40_001),
    entries(SignalType.SHA256, 1, 50_001, bank=2),
]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "snapshots"
    prepare(made)
    return made


def written(directory: Path, generation: int = 7, chunks: list[Entries] = SOME) -> Path:
    writer = SnapshotWriter(directory, generation, NONCE)
    for chunk in chunks:
        writer.add(chunk)
    return writer.finish()


def test_a_snapshot_answers_like_its_entries_in_memory(directory: Path) -> None:
    opened = open_snapshot(written(directory))
    opened.verify()
    assert (opened.generation, opened.nonce) == (7, NONCE)
    expected = EntryIndex.build(SOME)
    assert opened.index.counts == expected.counts
    assert opened.index.parts.keys() == expected.parts.keys()
    for of in (SignalType.PDQ, SignalType.PHASH):
        there, memory = opened.index.perceptual(of), expected.perceptual(of)
        assert there is not None
        assert memory is not None
        queries = np.concatenate([chunk.values[:5] for chunk in SOME if chunk.type is of])
        for found, wanted in zip(there.search(queries, 20), memory.search(queries, 20), strict=True):
            assert np.array_equal(found, wanted)
    md5 = opened.index.digests(SignalType.MD5)
    assert md5 is not None
    (entry,) = md5.search(SOME[3].values[17].tobytes())
    assert opened.index.parts[SignalType.MD5].ids[entry] == SOME[3].ids[17]


def test_a_snapshot_of_nothing_is_whole(directory: Path) -> None:
    opened = open_snapshot(written(directory, chunks=[]))
    opened.verify()
    assert opened.index.parts == {}


def test_snapshots_are_for_this_user_alone_and_not_to_be_written_again(directory: Path) -> None:
    """A file that is cut short in place, as by copying another over it, kills whoever maps it."""
    path = written(directory)
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_the_mapping_cannot_be_written(directory: Path) -> None:
    opened = open_snapshot(written(directory))
    assert not opened.index.parts[SignalType.PDQ].ids.offsets.flags.writeable


def test_there_is_nothing_under_the_final_name_before_the_end(directory: Path) -> None:
    writer = SnapshotWriter(directory, 7, NONCE)
    for chunk in SOME:
        writer.add(chunk)
        assert snapshots_in(directory) == []
    writer.finish()
    assert [name.generation for name in snapshots_in(directory)] == [7]
    assert [name.nonce for name in snapshots_in(directory)] == [NONCE]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "only a head": lambda whole: whole[:100],
    "cut in half": lambda whole: whole[: len(whole) // 2],
    "one byte short": lambda whole: whole[:-1],
    "one byte long": lambda whole: whole + b"\0",
    "another magic": lambda whole: b"X" + whole[1:],
    "another version": lambda whole: whole[:8] + b"\x63" + whole[9:],
    "other metadata": lambda whole: whole.replace(b'{"generation": 7', b'{"generation": 8'),
    "metadata elsewhere": lambda whole: whole[:16] + b"\xff" * 8 + whole[24:],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_refused_before_anything_of_it_is_used(
    directory: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = written(directory)
    whole = path.read_bytes()
    assert damage(whole) != whole
    path.write_bytes(damage(whole))
    with pytest.raises(SnapshotError):
        open_snapshot(path)


def test_one_flipped_bit_in_any_section_is_found(directory: Path) -> None:
    path = written(directory)
    whole = path.read_bytes()
    places = [
        4096,
        *(place for place in range(4096, len(whole) - 4096, 4096) if any(whole[place : place + 64])),
    ]
    for place in (places[0], places[len(places) // 3], places[len(places) // 2], places[-1]):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(SnapshotError):
            open_snapshot(path).verify()
    path.write_bytes(whole)
    open_snapshot(path).verify()


def test_sections_that_do_not_fit_together_are_refused(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the bands of another build of Cordon would be read with these."""
    path = written(directory)
    monkeypatch.setattr(snapshot, "directory_slots", lambda *_: 1)
    with pytest.raises(SnapshotError, match="fit together"):
        open_snapshot(path)


def test_a_file_that_is_not_there_or_is_a_link_is_refused(directory: Path) -> None:
    path = written(directory)
    (directory / "link").symlink_to(path)
    for other in (directory / "none", directory / "link", directory):
        with pytest.raises(SnapshotError):
            open_snapshot(other)


def test_an_abandoned_build_leaves_nothing_in_force(directory: Path) -> None:
    writer = SnapshotWriter(directory, 7, NONCE)
    writer.add(SOME[0])
    writer.abandon()
    with pytest.raises(AbandonedError):
        writer.add(SOME[1])
    with pytest.raises(AbandonedError):
        writer.finish()
    writer.discard()
    assert list(directory.iterdir()) == []


CRASH = """
import os, signal, sys
from pathlib import Path
from app.matching.snapshot import SnapshotWriter, building
from tests.matching.test_snapshot import NONCE, SOME
with building(Path(sys.argv[1])) as mine:
    assert mine
    writer = SnapshotWriter(Path(sys.argv[1]), 8, NONCE)
    for chunk in SOME:
        writer.add(chunk)
    rename = Path.rename
    Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    writer.finish()
"""


def test_a_kill_at_the_last_moment_of_a_build_leaves_the_last_good_one(directory: Path) -> None:
    written(directory, 7)
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CRASH), str(directory)], check=False, cwd=Path.cwd()
    )
    assert killed.returncode == -9
    (name,) = snapshots_in(directory)
    assert name.generation == 7
    open_snapshot(name.path).verify()
    with building(directory) as mine:
        assert mine, "the lock of a dead process is free"
        remove_others(directory, name.path)
    assert sorted(path.name for path in directory.iterdir()) == sorted(["lock", name.path.name])


def test_only_one_builds_at_a_time(directory: Path) -> None:
    with building(directory) as first, building(directory) as second:
        assert first
        assert not second
    with building(directory) as third:
        assert third


def test_whoever_has_the_right_to_build_is_told_and_a_dead_one_is_not(directory: Path) -> None:
    """The name stays in the file when its process is killed; the right does not."""
    assert builder(directory) is None
    with building(directory) as mine:
        assert mine
        assert re.fullmatch(rf"process {os.getpid()} since \d\d:\d\d:\d\d UTC", builder(directory) or "")
    assert builder(directory) is None
    (directory / "lock").write_text("")
    with (directory / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert builder(directory) == "a process that does not say which"


def test_nobody_builds_in_a_directory_that_is_mounted_read_only(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mounting one takes privileges that tests may lack: the kernel's answer is played here."""

    def refuse(*_: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", refuse)
    with building(directory) as mine:
        assert not mine


def test_a_snapshot_that_was_removed_goes_on_answering_where_it_is_open(directory: Path) -> None:
    opened = open_snapshot(written(directory, 7))
    newer = written(directory, 8)
    remove_others(directory, newer)
    assert [name.generation for name in snapshots_in(directory)] == [8]
    opened.verify()
    assert found(opened, SOME[0].values[3]) == [SOME[0].ids[3]]


def test_what_cannot_be_deleted_keeps_no_new_snapshot_from_being_the_one(directory: Path) -> None:
    """Here a directory has the name of an old one; all else is deleted."""
    written(directory, 5)
    odd = written(directory, 6)
    odd.unlink()
    (odd / "inside").mkdir(parents=True)
    newer = written(directory, 7)
    remove_others(directory, newer)
    assert sorted(directory.iterdir()) == [odd, newer]


OTHER_PROCESS = r"""
import re, sys
from pathlib import Path
from app.matching.snapshot import open_snapshot
opened = open_snapshot(Path(sys.argv[1]))
opened.verify()
maps = re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())
(mapped,) = (each for each in maps if sys.argv[1] in each.splitlines()[0])
kilobytes = dict(re.findall(r"^(\w+): +(\d+) kB", mapped, re.MULTILINE))
print(sum(opened.index.counts.values()), *(kilobytes[name] for name in ("Rss", "Private_Dirty", "Anonymous")))
"""


def test_another_process_maps_the_same_file_and_has_no_copy_of_it(directory: Path) -> None:
    path = written(directory)
    done = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, str(path)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ,
    )
    count, mapped, private, anonymous = (int(number) for number in done.stdout.split())
    assert count == sum(len(chunk) for chunk in SOME)
    assert mapped * 1024 >= path.stat().st_size
    assert private == anonymous == 0


@pytest.mark.parametrize("count", [1, 300, 9_000])
def test_no_entry_of_a_few_banks_takes_more_than_its_share(directory: Path, count: int) -> None:
    """Ids take four bytes and banks one, however large the numbers are."""
    chunk = entries(SignalType.PDQ, count, 2**40, bank=2**40)
    opened = open_snapshot(written(directory, chunks=[chunk]))
    part = opened.index.parts[SignalType.PDQ]
    assert (part.ids.offsets.nbytes, part.banks.codes.nbytes) == (4 * count, count)
    assert np.array_equal(part.ids[:], chunk.ids)
    assert np.array_equal(part.banks[:], chunk.banks)


def test_ids_far_apart_and_banks_by_the_hundred_are_kept_as_they_are(directory: Path) -> None:
    ids = np.array([2**62, 5, 2**40, 6, *range(10, 306)])
    banks = np.arange(300) * 2**33
    values = np.random.default_rng(1).integers(0, 256, (300, 16), np.uint8)
    chunk = Entries(SignalType.MD5, ids, banks, values)
    part = open_snapshot(written(directory, chunks=[chunk])).index.parts[SignalType.MD5]
    told = {(int(part.ids[entry]), int(part.banks[entry])) for entry in range(300)}
    assert told == set(zip(ids.tolist(), banks.tolist(), strict=True))


def test_nothing_is_listed_where_there_is_no_directory(tmp_path: Path) -> None:
    assert snapshots_in(tmp_path / "none") == []


def found(opened: Snapshot, value: np.ndarray) -> list[int]:
    search = opened.index.perceptual(SignalType.PDQ)
    assert search is not None
    hits = search.search(value.reshape(1, -1), 0)
    return [int(opened.index.parts[SignalType.PDQ].ids[entry]) for entry in hits.entries]
