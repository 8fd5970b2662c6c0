"""Banks straight from list files: no database, no state directory, always ready."""

import hashlib
from pathlib import Path

import pytest

from app.banks.importing import BadLinesError, ListFile
from app.banks.listed import ListedBanks
from app.banks.lists import ListError
from app.errors import NotReadyError
from app.media import Background, BankAction, BankKind, Digests, Rendering, Signals

PDQ = "f" * 32 + "0" * 32
MD5 = hashlib.md5(b"some").hexdigest()  # noqa: S324 - a digest that lists hold


def listed(folder: Path, name: str, text: str) -> ListFile:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return ListFile(folder / name)


def medium(md5: str = "11" * 16, pdq: str = "55" * 32) -> Signals:
    rendering = Rendering(0, Background.NONE, bytes.fromhex(pdq), 90, b"\1" * 8)
    return Signals(Digests(bytes.fromhex(md5), b"\1" * 20, b"\1" * 32), (rendering,))


def test_a_list_is_a_bank_that_blocks(tmp_path: Path) -> None:
    banks = ListedBanks.read(
        [listed(tmp_path, "known.csv", f"type,value\npdq,{PDQ}\nmd5,{MD5}\nmd5,{MD5}\n")]
    )
    consulted, matches = banks.ready(None).consult(medium(md5=MD5, pdq="e" + PDQ[1:]), None)
    assert (consulted.banks, consulted.holds_pdq) == (1, True)
    assert [(match.bank, match.kind, match.action, match.distance) for match in matches] == [
        ("known", BankKind.OTHER, BankAction.BLOCK, 0),
        ("known", BankKind.OTHER, BankAction.BLOCK, 1),
    ]
    assert banks.ready(None).consult(medium(), None)[1] == ()


def test_several_lists_are_several_banks_told_apart_by_name(tmp_path: Path) -> None:
    banks = ListedBanks.read(
        [
            listed(tmp_path / "1", "list.txt", MD5),
            listed(tmp_path / "2", "list.csv", f"type,value\npdq,{PDQ}\n"),
            listed(tmp_path / "3", "other", "a1b2c3d4e5f60718"),
        ]
    )
    loaded = banks.ready(frozenset({"list-2"}))
    assert set(loaded.banks) == {"list", "list-2", "other"}
    assert [match.bank for match in loaded.consult(medium(md5=MD5, pdq=PDQ), None)[1]] == ["list", "list-2"]


def test_an_unknown_name_is_not_ready(tmp_path: Path) -> None:
    banks = ListedBanks.read([listed(tmp_path, "known", MD5)])
    with pytest.raises(NotReadyError):
        banks.ready(frozenset({"other"}))


def test_no_list_is_not_ready() -> None:
    with pytest.raises(NotReadyError):
        ListedBanks.read([]).ready(None)


def test_bad_lists_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadLinesError):
        ListedBanks.read([listed(tmp_path, "known", f"{MD5}\nbad\n")])
    with pytest.raises(ListError, match="holds no signals"):
        ListedBanks.read([listed(tmp_path, "known", "")])
    with pytest.raises(ListError, match="--type"):
        ListedBanks.read([listed(tmp_path, "known", PDQ)])
    with pytest.raises(ListError, match="No such file"):
        ListedBanks.read([ListFile(tmp_path / "none")])
