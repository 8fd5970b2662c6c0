"""Single entries by command: what sources say, what a person decides, and what became of a bank."""

import json

import pytest

from tests.cli.conftest import Cordon

PDQ = "f8f8f0cee0f4a84f06370a22038f63f0b36e2ed596621e1d33e6b39c4e9c9b22"
OTHER = "0707" + PDQ[4:]
MD5 = "9e107d9d372bb6826bd81d3542a419d6"


@pytest.fixture
def banked(cordon: Cordon) -> Cordon:
    """The command, on a state with two banks: what a hotline lists, and what is harmless."""
    assert cordon("bank", "create", "known", "--kind", "csam", "--action", "report").code == 0
    assert cordon("bank", "create", "harmless", "--kind", "other", "--action", "suppress").code == 0
    (cordon.home / "list.csv").write_text(
        f"type,value,note,reference,classification\npdq,{PDQ},mine,X-1,B2\nmd5,{MD5},,,\n"
    )
    imported = cordon(
        *("bank", "import", "known", "list.csv", "--source", "hotline"),
        *("--classification", "A1", "--restrictions", "reports only"),
    )
    assert imported.code == 0, imported.err
    assert (
        cordon("bank", "import", "harmless", "-", "--type", "pdq", "--force", stdin=OTHER.encode()).code == 0
    )
    return cordon


def entry(cordon: Cordon, of: str, name: str = "known") -> int:
    """The id of the one entry of a type that a bank holds."""
    (found,) = [
        each["id"] for each in cordon("bank", "entry", "list", name, "--json").documents if each["type"] == of
    ]
    return int(found)


def test_the_terms_of_each_entry_are_shown(banked: Cordon) -> None:
    """Those of its line before those of the whole list; in full as JSON, in a table for people."""
    pdq = banked("bank", "entry", "show", str(entry(banked, "pdq")), "--json").document
    assert (pdq["bank"], pdq["value"], pdq["note"], pdq["disputed"]) == ("known", PDQ, "mine", False)
    (source,) = pdq["sources"]
    assert source.pop("imported_at")
    assert source == {
        "source": "hotline",
        "reference": "X-1",
        "classification": "B2",
        "restrictions": "reports only",
        "listed_at": None,
    }
    shown = banked("bank", "entry", "show", str(entry(banked, "md5"))).out.decode()
    assert MD5 in shown
    assert "hotline: classification A1; restrictions reports only" in shown
    listed = banked("bank", "entry", "list", "known").out.decode().splitlines()
    assert listed[0].split() == ["id", "type", "value", "state", "sources", "note"]
    assert not any(PDQ in line for line in listed)


def test_sources_that_disagree_make_an_entry_disputed(banked: Cordon) -> None:
    """And a later import adds no second entry."""
    again = json.dumps({"type": "pdq", "value": PDQ, "source": "police", "classification": "C9"})
    ran = banked("bank", "import", "known", "-", stdin=again.encode())
    assert (ran.code, "1 it held already" in ran.err) == (0, True)
    (disputed,) = banked("bank", "entry", "list", "known", "--state", "disputed", "--json").documents
    assert [each["source"] for each in disputed["sources"]] == ["hotline", "police"]
    assert banked("bank", "entry", "list", "known", "--state", "odd").code == 2


def test_what_is_said_of_a_list_needs_a_source(banked: Cordon) -> None:
    """Terms of nobody could not be told apart later; a line cannot name another source either."""
    (banked.home / "more.csv").write_text(f"type,value,source\nmd5,{'ab' * 16},other\n")
    for options in (("--classification", "A1"), ("--source", "hotline"), ("--source", "x" * 101)):
        ran = banked("bank", "import", "known", "more.csv", *options)
        assert (ran.code, ran.out) == (2, b"")
    assert banked("bank", "import", "known", "more.csv").code == 0


def test_one_entry_is_found_disabled_and_enabled_and_the_rest_stays(banked: Cordon) -> None:
    """The value comes by a pipe, so that no history of a shell keeps it."""
    ran = banked("bank", "entry", "find", "known", "-", "--type", "pdq", "--json", stdin=PDQ.encode())
    number = str(ran.document["id"])
    assert banked("bank", "entry", "disable", number).code == 2
    assert banked("bank", "entry", "disable", number, "--why", " ").code == 2
    assert banked("bank", "entry", "disable", number, "--why", "a logo").code == 0
    (disabled,) = banked("bank", "entry", "list", "known", "--state", "disabled", "--json").documents
    assert (disabled["id"], disabled["disabled"]["why"]) == (int(number), "a logo")
    assert "a logo" in banked("bank", "entry", "show", number).out.decode()
    listed = {each["name"]: each["disabled"] for each in banked("bank", "list", "--json").documents}
    assert (listed["known"], listed["harmless"]) == (1, 0)
    assert "; 1 disabled" in banked("bank", "list").out.decode()
    assert banked("bank", "entry", "enable", number).code == 0
    assert banked("bank", "entry", "list", "known", "--state", "disabled", "--json").out == b""
    assert banked("bank", "entry", "disable", "999", "--why", "w").code == 1
    assert banked("bank", "entry", "show", "999").code == 1


def test_whoever_takes_the_last_entry_out_of_force_is_warned(banked: Cordon) -> None:
    """From then on gates take nothing in. A bank of what is harmless may be empty."""
    first, last = (str(entry(banked, of)) for of in ("pdq", "md5"))
    assert "warning" not in banked("bank", "entry", "disable", first, "--why", "a logo").err
    ran = banked("bank", "entry", "disable", last, "--why", "a logo")
    assert (ran.code, "warning: no entry of bank known is in force any more" in ran.err) == (0, True)
    assert banked("bank", "entry", "enable", last).code == 0
    ran = banked("bank", "remove", "known", "-", stdin=MD5.encode())
    assert (ran.code, "warning: no entry of bank known is in force any more" in ran.err) == (0, True)
    harmless = str(entry(banked, "pdq", "harmless"))
    assert "warning" not in banked("bank", "entry", "disable", harmless, "--why", "not harmless").err


def test_an_entry_is_annotated(banked: Cordon) -> None:
    """An empty note takes it away."""
    number = str(entry(banked, "md5"))
    assert banked("bank", "entry", "annotate", number, "seen in case 17").code == 0
    assert banked("bank", "entry", "show", number, "--json").document["note"] == "seen in case 17"
    assert banked("bank", "entry", "annotate", number, "").code == 0
    assert banked("bank", "entry", "show", number, "--json").document["note"] is None
    assert banked("bank", "entry", "annotate", number, "x" * 1001).code == 2


def test_words_given_as_a_dash_are_asked_for_and_stand_in_no_command(banked: Cordon) -> None:
    """Why an entry is out of force, its note, and why a bank does not report; none at all is refused."""
    number = str(entry(banked, "md5"))
    assert banked("bank", "entry", "disable", number, "--why", "-", stdin=b"a logo, case 17\n").code == 0
    assert banked("bank", "entry", "annotate", number, "-", stdin=b"seen by ada\n").code == 0
    shown = banked("bank", "entry", "show", number, "--json").document
    assert (shown["disabled"]["why"], shown["note"]) == ("a logo, case 17", "seen by ada")
    silent = banked("bank", "entry", "annotate", number, "-")
    assert (silent.code, "NOTE - takes a line of standard input" in silent.err) == (2, True)
    block = ("--action", "block", "--no-report-reason", "-")
    assert banked("bank", "create", "quiet", "--kind", "csam", *block, stdin=b"by agreement\n").code == 0
    assert banked("bank", "set", "known", *block, stdin=b"by order 9\n").code == 0
    reasons = {each["name"]: each["no_report_reason"] for each in banked("bank", "list", "--json").documents}
    assert reasons == {"known": "by order 9", "quiet": "by agreement", "harmless": None}


def test_the_history_tells_what_a_second_source_spoke_of(banked: Cordon) -> None:
    """It adds no entry, and a withdrawal of its word takes none away."""
    assert banked("bank", "import", "known", "list.csv", "--source", "police").code == 0
    assert banked("bank", "remove", "known", "list.csv", "--source", "police").code == 0
    withdrawn, told, *_ = banked("bank", "history", "known").out.decode().splitlines()[1:]
    assert withdrawn.rstrip().endswith("0; 2 kept")
    assert told.rstrip().endswith("0; 2 known")


def test_a_pair_is_named_and_taken_apart(banked: Cordon) -> None:
    """Only of a csam entry and one that suppresses; what is not parked cannot be kept."""
    number, other = str(entry(banked, "pdq")), str(entry(banked, "pdq", "harmless"))
    assert banked("bank", "entry", "pair", other, number).code == 1
    assert banked("bank", "entry", "pair", number, other).code == 0
    assert banked("bank", "entry", "show", number, "--json").document["suppressors"] == [int(other)]
    assert banked("bank", "entry", "unpair", number, other).code == 0
    assert banked("bank", "entry", "unpair", number, other).code == 1
    kept = banked("bank", "entry", "keep", number)
    assert (kept.code, "not parked" in kept.err) == (1, True)


def test_the_history_tells_who_when_what_and_how_many(banked: Cordon) -> None:
    """Newest first; a bank that never was is an error, one that is deleted is not."""
    number = entry(banked, "pdq")
    banked("bank", "entry", "disable", str(number), "--why", "w")
    banked("bank", "delete", "known", "--yes")
    told = banked("bank", "history", "known", "--json").documents
    assert [(each["what"], each["by"], each["entries"], each["entry_id"]) for each in told] == [
        ("deleted", "cli", None, None),
        ("entry_disabled", "cli", None, number),
        ("signals_added", "cli", 2, None),
        ("created", "cli", None, None),
    ]
    (older,) = banked("bank", "history", "known", "--before", str(told[2]["seq"]), "--json").documents
    assert older == told[3]
    assert banked("bank", "history", "known").out.decode().splitlines()[0].split()[:2] == ["seq", "at"]
    assert banked("bank", "history", "never").code == 1


def test_the_history_tells_what_a_bank_was_set_to(banked: Cordon) -> None:
    """Who looks for the day on which near matches came to pass need not read JSON."""
    policy = ("--tier", "near=block", "--threshold", "pdq=20", "--minimum-quality", "70")
    assert banked("bank", "create", "leaks", "--kind", "ncii", "--action", "report").code == 0
    assert banked("bank", "set", "leaks", *policy).code == 0
    after, before = banked("bank", "history", "leaks").out.decode().splitlines()[1:]
    assert after.rstrip().endswith("report near=block pdq=20 quality=70")
    assert before.rstrip().endswith("report")
