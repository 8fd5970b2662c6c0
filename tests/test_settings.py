"""Settings: environment over file over default, closed to typos, silent about values."""

import ipaddress
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.media import VariantKind
from app.settings import MEBIBYTE, STAGES, Profile, Settings, SettingsError, load


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads a file of the developer's."""
    monkeypatch.chdir(tmp_path)


def _file(text: str) -> dict[str, str]:
    Path("own.toml").write_text(text, encoding="utf-8")
    return {"CORDON_CONFIG": "own.toml"}


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = load({})
    assert settings == Settings()
    assert settings.store.state_dir == Path("./.cordon")
    assert settings.store.database_url is None
    assert (settings.serve.host, settings.serve.port) == ("127.0.0.1", 8080)
    assert (settings.serve.plain_http, settings.serve.strict) == (False, False)
    assert settings.serve.require_custodian
    assert settings.intake.max_bytes == 64 * MEBIBYTE
    assert settings.intake.max_video_bytes == 1024 * MEBIBYTE
    assert settings.intake.inflight_bytes == 1280 * MEBIBYTE
    assert settings.hashing.max_pixels == 100_000_000
    assert settings.hashing.max_decode_bytes == 640 * MEBIBYTE
    assert (settings.hashing.max_frames, settings.hashing.decode_seconds) == (500, 10)
    fetch = settings.fetch
    assert (fetch.fetch_connect_seconds, fetch.fetch_first_byte_seconds, fetch.fetch_total_seconds) == (
        5,
        10,
        60,
    )
    assert fetch.fetch_allow == ()
    assert fetch.fetch_ports == frozenset({80, 443})
    assert (fetch.fetch_proxy, fetch.fetch_resolver) == (None, None)
    assert settings.policy.low_quality == "withhold"
    assert (settings.report.reporter_role, settings.report.preservation) == (None, None)
    assert settings.profiles == {"default": Profile()}
    assert not settings.profiles["default"].disclose_banks


def test_every_setting_of_every_stage_can_be_named_and_no_two_share_a_name() -> None:
    names = [name for stage in STAGES.values() for name in stage.model_fields]
    assert len(names) == len(set(names))
    assert set(STAGES) == set(Settings.model_fields) - {"profiles"}
    assert all(field.description for stage in STAGES.values() for field in stage.model_fields.values())


def test_automatic_filing_is_off_and_asked_for_only_where_it_can_be() -> None:
    """Where something is filed, and one person may approve; its distance can only be made less."""
    assert Settings().files_by_itself_within is None
    on = {"CORDON_AUTOFILE": "true", "CORDON_CYBERTIP": "double"}
    assert load(on).files_by_itself_within == 8
    assert load(on | {"CORDON_AUTOFILE_DISTANCE": "0"}).files_by_itself_within == 0
    assert load({"CORDON_AUTOFILE_DISTANCE": "3"}).files_by_itself_within is None
    for wrong, named in (
        ({"CORDON_CYBERTIP": "off"}, "needs CORDON_CYBERTIP"),
        ({"CORDON_DUAL_CONTROL": "true"}, "CORDON_DUAL_CONTROL"),
        ({"CORDON_AUTOFILE_DISTANCE": "9"}, "CORDON_AUTOFILE_DISTANCE"),
        ({"CORDON_AUTOFILE_DISTANCE": "-1"}, "CORDON_AUTOFILE_DISTANCE"),
    ):
        with pytest.raises(SettingsError, match=named):
            load(on | wrong)


def test_the_environment_goes_over_the_file_and_the_file_over_the_default() -> None:
    variables = _file("port = 1\nmax_bytes = 2\n")
    settings = load(variables | {"CORDON_PORT": "3"})
    assert (settings.serve.port, settings.intake.max_bytes, settings.hashing.max_frames) == (3, 2, 500)


def test_a_file_beside_the_process_is_read_unless_another_is_named() -> None:
    Path("cordon.toml").write_text("port = 1\n", encoding="utf-8")
    assert load({}).serve.port == 1
    assert load(_file("")).serve.port == 8080


def test_the_budget_follows_the_largest_limit_in_use_unless_it_is_set() -> None:
    assert load({"CORDON_MAX_BYTES": "400", "CORDON_MAX_VIDEO_BYTES": "200"}).intake.inflight_bytes == 500
    assert load({"CORDON_MAX_INFLIGHT_BYTES": "7"}).intake.inflight_bytes == 7


@pytest.mark.parametrize("given", ["80, 8443,", "[80, 8443]", "['80', '8443']"])
def test_lists_are_given_with_commas_or_as_toml(given: str) -> None:
    settings = load(
        _file(f"fetch_ports = {given}") if given.startswith("[") else {"CORDON_FETCH_PORTS": given}
    )
    assert settings.fetch.fetch_ports == frozenset({80, 8443})


@pytest.mark.parametrize("given", ['"*"', '["*"]'])
def test_any_port_is_a_star(given: str) -> None:
    assert load({"CORDON_FETCH_PORTS": "*"}).fetch.fetch_ports is None
    assert load(_file(f"fetch_ports = {given}")).fetch.fetch_ports is None
    assert load(_file("fetch_ports = 8443")).fetch.fetch_ports == frozenset({8443})


def test_an_empty_list_allows_nothing() -> None:
    settings = load({"CORDON_FETCH_PORTS": "", "CORDON_FETCH_ALLOW": ""})
    assert (settings.fetch.fetch_ports, settings.fetch.fetch_allow) == (frozenset(), ())


def test_networks_are_read_and_must_be_networks() -> None:
    settings = load({"CORDON_FETCH_ALLOW": "10.0.0.0/8, fd00::/8"})
    assert settings.fetch.fetch_allow == (
        ipaddress.ip_network("10.0.0.0/8"),
        ipaddress.ip_network("fd00::/8"),
    )
    with pytest.raises(SettingsError, match="CORDON_FETCH_ALLOW"):
        load({"CORDON_FETCH_ALLOW": "10.0.0.1/8"})


@pytest.mark.parametrize("name", ["CORDON_MAX_BYTE", "CORDON_", "CORDON_PROFILES", "CORDON_STORE"])
def test_an_unknown_variable_is_refused_so_that_a_typo_changes_nothing_silently(name: str) -> None:
    with pytest.raises(SettingsError, match=f"unknown setting {name}"):
        load({name: "1"})


@pytest.mark.parametrize(
    "text", ["max_byte = 1", "MAX_BYTES = 1", "config = 'x'", "[store]\nstate_dir = 'x'"]
)
def test_an_unknown_name_in_the_file_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="in the configuration file"):
        load(_file(text))


def test_other_variables_are_not_cordons() -> None:
    assert load({"PATH": "/bin", "CORDONX": "1", "cordon_port": "1"}) == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "canary"),
        ("PORT", "65536"),
        ("MAX_BYTES", "0"),
        ("MAX_BYTES", "-1"),
        ("MAX_BYTES", "64MiB"),
        ("FETCH_TOTAL_SECONDS", "0"),
        ("FETCH_TOTAL_SECONDS", "inf"),
        ("FETCH_TOTAL_SECONDS", "nan"),
        ("FETCH_PORTS", "80,70000"),
        ("DISABLED_FORMATS", "heic,canary"),
        ("DISABLED_FORMATS", "HEIC"),
        ("FETCH_PROXY", "canary://user:canary@proxy"),
        ("FETCH_PROXY", "socks5://proxy"),
        ("FETCH_USER_AGENT", "canary\r\nX: y"),
        ("LOW_QUALITY", "canary"),
        ("STRICT", "canary"),
        ("PLACE_KEY", "canary-too-short"),
        ("REPORTER_ROLE", "canary"),
        ("PRESERVATION", "canary"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name_and_not_repeated(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^CORDON_{name}: ") as refusal:
        load({f"CORDON_{name}": value})
    assert "canary" not in f"{refusal.value} {refusal.value.__cause__}"


def test_a_certificate_needs_its_key() -> None:
    with pytest.raises(SettingsError, match="CORDON_TLS_CERT and CORDON_TLS_KEY"):
        load({"CORDON_TLS_CERT": "cert.pem"})
    both = load({"CORDON_TLS_CERT": "cert.pem", "CORDON_TLS_KEY": "key.pem"})
    assert (both.serve.tls_cert, both.serve.tls_key) == (Path("cert.pem"), Path("key.pem"))


@pytest.mark.parametrize(
    "prepare",
    [
        lambda _: None,
        lambda path: path.mkdir(),
        lambda path: path.write_text("port = canary", encoding="utf-8"),
        lambda path: path.write_bytes(b"\xff\xfe"),
    ],
    ids=["missing", "directory", "no TOML", "no UTF-8"],
)
def test_a_file_that_was_named_must_be_readable(prepare: object) -> None:
    assert callable(prepare)
    prepare(Path("named.toml"))
    with pytest.raises(SettingsError, match=r"configuration file named\.toml") as refusal:
        load({"CORDON_CONFIG": "named.toml"})
    assert "canary" not in str(refusal.value)


def test_profiles_are_tables_of_the_file_beside_the_default() -> None:
    settings = load(
        _file(
            "port = 1\n"
            "[profile.strict]\nbanks = ['one', 'two']\ndisclose_banks = true\nlow_quality = 'accept'\n"
            "[profile.small]\nmax_bytes = 5\n"
            "[profile.plain]\nvariants = []\n"
            "[profile.flips]\nvariants = ['symmetries']\n"
        )
    )
    assert set(settings.profiles) == {"default", "strict", "small", "plain", "flips"}
    assert settings.profiles["default"] == Profile()
    strict = settings.profiles["strict"]
    assert strict.banks == frozenset({"one", "two"})
    assert (strict.disclose_banks, strict.low_quality) == (True, "accept")
    assert settings.profiles["small"].max_bytes == 5
    assert strict.variants == frozenset(VariantKind)
    assert settings.profiles["plain"].variants == frozenset()
    assert settings.profiles["flips"].variants == {VariantKind.SYMMETRIES}


def test_a_variant_that_is_unknown_is_refused() -> None:
    """A mistyped one would leave a search out silently."""
    with pytest.raises(SettingsError, match=r"\[profile.flips\].*variants"):
        load(_file("[profile.flips]\nvariants = ['symmetry']\n"))


def test_the_default_profile_can_be_changed_but_not_be_missing() -> None:
    assert load(_file("[profile.default]\ndisclose_banks = true\n")).profiles["default"].disclose_banks
    assert "default" in load(_file("[profile.other]\n")).profiles


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[profile.p]\ndisclose_bank = true\n", "[profile.p] in the configuration file: disclose_bank"),
        ("[profile.p]\nmax_bytes = 0\n", "[profile.p] in the configuration file: max_bytes"),
        ("profile = 5\n", "write profiles as tables"),
        ("[profile]\np = 5\n", "write profiles as tables"),
    ],
)
def test_a_wrong_profile_is_refused_by_its_name(text: str, told: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        load(_file(text))
    assert told in str(refusal.value)


def test_secrets_stand_in_no_repr() -> None:
    settings = load(
        {
            "CORDON_DATABASE_URL": "postgresql://user:canary@host/name",
            "CORDON_PLACE_KEY": "canary" * 10,
            "CORDON_FETCH_PROXY": "http://user:canary@proxy",
        }
    )
    assert "canary" not in f"{settings!r} {settings}"


def test_settings_cannot_be_changed_once_read() -> None:
    settings = load({})
    with pytest.raises(ValidationError):
        settings.serve.port = 1  # type: ignore[misc]
