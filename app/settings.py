"""All settings: one frozen class a stage, validated before anything starts.

A setting ``NAME`` comes from ``CORDON_NAME`` in the environment, else from ``name`` in ``cordon.toml``
(``CORDON_CONFIG`` names another file), else from the default here. Unknown names are refused, so that a
typo never leaves a limit at its default silently. ``docs/reference/settings.md`` is made from this file.
"""

import base64
import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from app import __version__, formats
from app.media import VariantKind

MEBIBYTE: Final = 1024 * 1024
GIBIBYTE: Final = 1024 * MEBIBYTE
PREFIX: Final = "CORDON_"
NOT_IN_FILE: Final = frozenset({"CONFIG", "TOKEN"})
"""Variables that are no settings: the configuration file's name, and a client's token."""

_SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - how such a secret begins, not one
_SECRET_BYTES: Final = range(24, 65)
_ADDRESS: Final = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9.-]+")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class SettingsError(Exception):
    """A setting is wrong; the message names it and the mend, and never its value."""


def _comma_separated(value: object) -> object:
    """Let the environment give lists as ``a,b``."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _ports(value: object) -> object:
    """Read ``80,443`` as a set of ports and ``*`` as None, which stands for any."""
    if value in ("*", ["*"]):
        return None
    return _comma_separated(str(value) if isinstance(value, int) else value)


Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]


def _webhook_secret(value: object) -> object:
    """Read ``whsec_`` and base64 as the bytes that requests are signed with."""
    if not isinstance(value, str):
        return value
    try:
        key = base64.b64decode(value.removeprefix(_SECRET_PREFIX), validate=True)
    except ValueError:
        key = b""
    if not value.startswith(_SECRET_PREFIX) or len(key) not in _SECRET_BYTES:
        message = "write 'whsec_' and the base64 of 24 to 64 random bytes"
        raise ValueError(message)
    return key


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Stage(BaseModel):
    """Base of the stages' settings: frozen, closed, filled by field name."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class StoreSettings(_Stage):
    """Where state is kept."""

    state_dir: Path = Field(
        Path("./.cordon"), description="Holds the embedded database `cordon.db` and the index snapshots."
    )
    database_url: str | None = Field(
        None,
        repr=False,
        description="`postgresql://user:password@host/name`, or `sqlite:///path`. "
        "Without it, SQLite in `CORDON_STATE_DIR`.",
    )
    place_key: str | None = Field(
        None,
        repr=False,
        min_length=32,
        description="A secret of 32 characters or more, the same for all gates on one database. With it, "
        "the keyed hashes that join sightings cannot be tested by someone who has the database alone.",
    )


class ServeSettings(_Stage):
    """How the web process listens, and when it refuses to."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: Port = Field(8080, description="Port to listen on; 0 picks one.")
    tls_cert: Path | None = Field(None, description="PEM file with the certificate chain.")
    tls_key: Path | None = Field(None, description="PEM file with the private key.")
    plain_http: bool = Field(
        False, description="Allow serving beyond loopback without TLS (a proxy in front ends TLS)."
    )
    strict: bool = Field(False, description="Refuse to start when a required control is missing.")
    require_custodian: bool = Field(
        True,
        description="Take nothing in while no custodian is known. With `false`, a match that must be "
        "reported is still dropped, and answered 503 `report_not_stored`.",
    )
    drain_seconds: Seconds = Field(30, description="How long SIGTERM waits for work that was begun.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level logged.")

    @model_validator(mode="after")
    def _tls_comes_in_pairs(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            message = "set both CORDON_TLS_CERT and CORDON_TLS_KEY, or neither"
            raise ValueError(message)
        return self


class IntakeSettings(_Stage):
    """How much a medium, and all media at once, may take."""

    max_bytes: Count = Field(64 * MEBIBYTE, description="Largest medium, in bytes.")
    max_video_bytes: Count = Field(
        GIBIBYTE, description="Largest medium in bytes if its first 4 KiB say that it is a video."
    )
    max_inflight_bytes: Count | None = Field(
        None,
        description="Bytes of media held at once; beyond it new work is answered 503. "
        "Default: 1.25 times the largest limit in use.",
    )

    upload_idle_seconds: Seconds = Field(30, description="Longest pause within a request's body.")
    upload_total_seconds: Seconds = Field(900, description="Longest time that a request's body may take.")

    @property
    def inflight_bytes(self) -> int:
        """The budget in force, in bytes."""
        return self.max_inflight_bytes or max(self.max_bytes, self.max_video_bytes) * 5 // 4


class FetchSettings(_Stage):
    """How URLs are fetched."""

    fetch_connect_seconds: Seconds = Field(5, description="To resolve, connect and agree on TLS, each hop.")
    fetch_first_byte_seconds: Seconds = Field(10, description="Until an answer starts, each hop.")
    fetch_total_seconds: Seconds = Field(60, description="For a whole fetch, redirects included.")
    fetch_allow: Annotated[tuple[Network, ...], BeforeValidator(_comma_separated)] = Field(
        (), description="CIDRs that may be reached although they are not global; a warning at every start."
    )
    fetch_ports: Annotated[frozenset[Port] | None, BeforeValidator(_ports)] = Field(
        frozenset({80, 443}), description="Ports that may be dialled, `80,443`; `*` for any."
    )
    fetch_proxy: str | None = Field(
        None,
        repr=False,
        pattern=r"^(http|socks5h)://",
        description="The one egress proxy, `http://` or `socks5h://`; names go to it unresolved.",
    )
    fetch_resolver: str | None = Field(
        None, description="`address` or `address:port` of a DNS server to ask instead of the system's."
    )
    fetch_user_agent: str = Field(
        f"Cordon/{__version__}", pattern=r"^[ -~]+$", description="The User-Agent header."
    )


class HashingSettings(_Stage):
    """What decoding may take."""

    max_pixels: Count = Field(100_000_000, description="Largest width times height of a frame.")
    max_decode_bytes: Count = Field(640 * MEBIBYTE, description="Memory for all decoding at once, in bytes.")
    max_frames: Count = Field(500, description="Most frames or pages of one medium.")
    decode_seconds: Seconds = Field(10, description="Time to decode and hash one medium.")
    scan_seconds: Seconds = Field(60, description="Time to wait for a decoder and its memory, and to decode.")
    decoders: Count | None = Field(None, description="Decoders at work. Default: one a processor, and two.")
    decoder_media: Count = Field(256, description="Media a decoder process sees before it is replaced.")
    quick_look: bool = Field(
        True,
        description="Look at JPEGs quickly where no hash is told, and closely only at what is near an entry.",
    )
    disabled_formats: Annotated[frozenset[str], BeforeValidator(_comma_separated)] = Field(
        frozenset(),
        description="Formats never decoded, `heic,avif`: a switch for the day a decoder is found vulnerable.",
    )

    @field_validator("disabled_formats")
    @classmethod
    def _formats_are_known(cls, names: frozenset[str]) -> frozenset[str]:
        # A name that nothing bears would leave the decoder on.
        known = [each.name for each in formats.IMAGES]
        if not names <= set(known):
            message = f"known formats are {', '.join(known)}"
            raise ValueError(message)
        return names


LowQualityPolicy = Literal["withhold", "accept"]


class PolicySettings(_Stage):
    """What is concluded where the contract leaves a choice."""

    low_quality: LowQualityPolicy = Field(
        "withhold",
        description="`withhold` what no PDQ of quality 50 or more can speak for, or `accept` it as clear.",
    )
    flood_media: Count = Field(
        100,
        description="How many media that do not look alike a bank entry may match on one day, other than "
        "exactly. Beyond it the entry is parked: it goes on blocking, and its reports wait for a person.",
    )
    keep_clear_days: Annotated[int, Field(ge=0, le=7)] = Field(
        0,
        description="For how many days to keep PDQ values of clear media for dry runs of banks, with the day "
        "and nothing else. 0 keeps none, and deletes what was kept.",
    )
    keep_clear_share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = Field(
        0.1, description="Of how many clear media to keep them, drawn at random: `0.1` is one in ten."
    )


class CustodySettings(_Stage):
    """Who may open and decide."""

    custodians: Path | None = Field(
        None,
        description="File of the pinned custodians, which the service should be able to read and not to "
        "write. Without it, `custodians` in `CORDON_STATE_DIR`, made when it is first needed.",
    )
    dual_control: bool = Field(
        False,
        description="File only what two different custodians approved: the very same document. Two must also "
        "reject a report, say that it was filed by hand or is to be filed afresh, or order that it is "
        "destroyed.",
    )


class ReportSettings(_Stage):
    """Who reports, and what is kept."""

    reporter_role: Literal["provider", "voluntary"] | None = Field(
        None, description="`provider` or `voluntary`; needed to file."
    )
    preservation: Literal["metadata_only"] | None = Field(
        None, description="`metadata_only`; must be set by hand where the role is `provider`."
    )


class RetentionSettings(_Stage):
    """How long reports are kept."""

    jurisdiction: Literal["us", "uk", "eu", "ca", "ca-c16"] | None = Field(
        None,
        description="Whose law says how long finished reports are kept. Without it, time removes none but "
        "rejected ones. Ask a lawyer first.",
    )
    retention_days: Count | None = Field(
        None,
        description="Keep finished reports so many days, where that is longer than the least time and no "
        "longer than the longest.",
    )
    rejected_days: Annotated[int, Field(ge=0)] = Field(
        30, description="How long rejected and retracted reports are kept; in the `eu` they are not."
    )


class FilingSettings(_Stage):
    """Where approved reports are filed, and by whom."""

    cybertip: Literal["off", "double", "test", "production"] = Field(
        "off",
        description="Where the worker files: nowhere, with the double on this machine, with NCMEC's test "
        "host, or for real. What is filed with the double or the test host never counts as filed.",
    )
    cybertip_real_reports: bool = Field(
        False, description="The second switch that `CORDON_CYBERTIP=production` needs."
    )
    cybertip_double_url: str = Field(
        "http://127.0.0.1:8091/ispws",
        pattern=r"^http://(127\.0\.0\.1|\[::1\]):\d{1,5}/ispws$",
        description="Where `cordon dev cybertip-double` listens; this machine alone.",
    )
    cybertip_user: str | None = Field(None, repr=False, description="User that NCMEC gave out.")
    cybertip_password: str | None = Field(None, repr=False, description="Its password.")
    cybertip_xsd: Path | None = Field(
        None,
        description="NCMEC's schema, as `cordon report xsd` fetches it; documents are validated with it too.",
    )
    filing_identity: Path | None = Field(
        None,
        description="The worker's own key, 0600, made by `cordon custodian keygen`, which no other process "
        "should be able to read. Its public half is pinned: what custodians approve is sealed to it. Without "
        "this, `worker.key` in `CORDON_STATE_DIR`, made when the worker first files.",
    )
    filing_memory: Path | None = Field(
        None,
        description="Where the worker keeps what it last saw of the audit log, a file that no other process "
        "should be able to write: while the log does not follow on from that, it files nothing. Without "
        "this, `worker.key.seen` beside its key.",
    )
    autofile: bool = Field(
        False,
        description="Let the worker approve and file by itself what matches a csam bank by a digest, or by a "
        "PDQ that is nearly the same. Gates then seal these reports to the worker too. It needs "
        "`CORDON_CYBERTIP` and, for the worker, `CORDON_FILING_IDENTITY`, and does not go with "
        "`CORDON_DUAL_CONTROL`. Set it for gates and worker alike.",
    )
    autofile_distance: Annotated[int, Field(ge=0, le=8)] = Field(
        8,
        description="Largest PDQ distance of what the worker files by itself; it can be made less alone.",
    )
    filing_alarm_hours: Annotated[float, Field(ge=72, allow_inf_nan=False)] = Field(
        72, description="How long filing is tried again before a person is called; it goes on after that."
    )
    reporter_first_name: str = Field("Placeholder", description="Who reports, as NCMEC knows them.")
    reporter_last_name: str = Field("Placeholder", description="The same.")
    reporter_email: str = Field(
        "placeholder@reporter.example", description="Where NCMEC reaches the reporter; needed."
    )
    reporter_phone: str | None = Field(None, description="And by telephone.")
    reporter_company: str = Field("Placeholder", description="The organisation's name.")
    reporter_about: str | None = Field(
        None, description="Who you are, what you keep and for how long, how counsel is reached."
    )
    reporter_terms_of_service: str | None = Field(
        None, description="Your terms of service, or where they are."
    )
    reporter_legal_url: str | None = Field(
        None, description="Where law enforcement finds how to serve process."
    )
    reporter_contact_first_name: str | None = Field(None, description="Whom law enforcement may ask.")
    reporter_contact_last_name: str | None = Field(None, description="The same.")
    reporter_contact_email: str | None = Field(None, description="Where that person is reached.")


class NotifySettings(_Stage):
    """Whom the worker tells of new reports, states and alarms: ids and states alone."""

    notify_webhook_url: str | None = Field(
        None, repr=False, description="Where every event is posted; `https://`, or `http://` on this machine."
    )
    notify_webhook_secret: Annotated[bytes, BeforeValidator(_webhook_secret)] | None = Field(
        None,
        repr=False,
        description="`whsec_` and the base64 of 24 to 64 random bytes: what requests are signed with "
        "(Standard Webhooks).",
    )
    notify_smtp_host: str | None = Field(
        None, description="Mail server that takes e-mail on new reports and alarms."
    )
    notify_smtp_port: Port = Field(587, description="Its port.")
    notify_smtp_tls: Literal["starttls", "implicit", "none"] = Field(
        "starttls",
        description="`starttls`, or `implicit` (mostly port 465); `none` only on this machine.",
    )
    notify_smtp_user: str | None = Field(None, repr=False, description="Account on the mail server, if any.")
    notify_smtp_password: str | None = Field(None, repr=False, description="Its password.")
    notify_email_from: str | None = Field(None, repr=False, description="Sender's address.")
    notify_email_to: Annotated[tuple[str, ...], BeforeValidator(_comma_separated)] = Field(
        (), repr=False, description="Recipients' addresses, the custodians'."
    )
    notify_ca_file: Path | None = Field(
        None, description="PEM certificates to trust for both, instead of the system's."
    )

    @field_validator("notify_webhook_url")
    @classmethod
    def _nobody_reads_along(cls, url: str | None) -> str | None:
        if url is not None:
            parts = urlsplit(url)
            if parts.username is not None or parts.fragment or not parts.hostname:
                raise ValueError("write 'https://host/path', without a user")
            if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname)):
                raise ValueError("must be https, unless it is on this machine")
        return url

    @field_validator("notify_email_from", "notify_email_to")
    @classmethod
    def _addresses_are_plain(cls, given: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        for address in (given,) if isinstance(given, str) else given or ():
            if _ADDRESS.fullmatch(address) is None:
                raise ValueError("write addresses as 'name@host'")
        return given

    @model_validator(mode="after")
    def _channels_are_whole(self) -> Self:
        if (self.notify_webhook_url is None) != (self.notify_webhook_secret is None):
            raise ValueError(
                "set both CORDON_NOTIFY_WEBHOOK_URL and CORDON_NOTIFY_WEBHOOK_SECRET, or neither"
            )
        if not (
            (self.notify_smtp_host is None) == (self.notify_email_from is None) == (not self.notify_email_to)
        ):
            raise ValueError(
                "set CORDON_NOTIFY_SMTP_HOST, CORDON_NOTIFY_EMAIL_FROM and CORDON_NOTIFY_EMAIL_TO, or none"
            )
        if (self.notify_smtp_user is None) != (self.notify_smtp_password is None):
            raise ValueError("set both CORDON_NOTIFY_SMTP_USER and CORDON_NOTIFY_SMTP_PASSWORD, or neither")
        if self.notify_smtp_tls == "none" and not _is_loopback(self.notify_smtp_host or ""):
            raise ValueError("CORDON_NOTIFY_SMTP_TLS=none: only for a mail server on this machine")
        return self


class Profile(_Stage):
    """A named intake policy that keys are bound to; ``default`` always exists."""

    banks: frozenset[str] | None = Field(None, description="Banks consulted; all if absent.")
    disclose_banks: bool = Field(False, description="Tell callers the names of the banks that matched.")
    low_quality: LowQualityPolicy | None = Field(None, description="Overrides `CORDON_LOW_QUALITY`.")
    variants: frozenset[VariantKind] = Field(
        frozenset(VariantKind),
        description="What is searched beside the picture as it stands: `symmetries` (flips and quarter "
        "turns), `negatives`, `regions` (pictures within it). All by default; `[]` is plain PDQ.",
    )
    max_bytes: Count | None = Field(None, description="Overrides `CORDON_MAX_BYTES`, downwards only.")
    max_video_bytes: Count | None = Field(
        None, description="Overrides `CORDON_MAX_VIDEO_BYTES`, downwards only."
    )


class Settings(_Stage):
    """All stages' settings and the profiles."""

    store: StoreSettings = StoreSettings()
    serve: ServeSettings = ServeSettings()
    intake: IntakeSettings = IntakeSettings()
    fetch: FetchSettings = FetchSettings()
    hashing: HashingSettings = HashingSettings()
    policy: PolicySettings = PolicySettings()
    custody: CustodySettings = CustodySettings()
    report: ReportSettings = ReportSettings()
    notify: NotifySettings = NotifySettings()
    retention: RetentionSettings = RetentionSettings()
    filing: FilingSettings = FilingSettings()
    profiles: Mapping[str, Profile] = {"default": Profile()}

    @property
    def files_by_itself_within(self) -> int | None:
        """Largest PDQ distance of what the worker files by itself; None if it files nothing by itself."""
        return self.filing.autofile_distance if self.filing.autofile else None

    @property
    def roster_path(self) -> Path:
        """The file of the pinned custodians."""
        return self.custody.custodians or self.store.state_dir / "custodians"

    @property
    def worker_key_path(self) -> Path:
        """The worker's identity file."""
        return self.filing.filing_identity or self.store.state_dir / "worker.key"

    @property
    def worker_memory_path(self) -> Path:
        """The file of what the worker saw of the audit log."""
        key = self.worker_key_path
        return self.filing.filing_memory or key.with_name(f"{key.name}.seen")


STAGES: Final[Mapping[str, type[_Stage]]] = {
    "store": StoreSettings,
    "serve": ServeSettings,
    "intake": IntakeSettings,
    "fetch": FetchSettings,
    "hashing": HashingSettings,
    "policy": PolicySettings,
    "custody": CustodySettings,
    "report": ReportSettings,
    "notify": NotifySettings,
    "retention": RetentionSettings,
    "filing": FilingSettings,
}


def load(environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from the environment, the configuration file and the defaults.

    Args:
        environment: variables to read; those of the process if None.

    Raises:
        SettingsError: a name is unknown, a value is wrong, or the file cannot be read.
    """
    variables = os.environ if environment is None else environment
    given = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in variables.items()
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in NOT_IN_FILE
    }
    from_file, profiles = _read_file(variables.get(f"{PREFIX}CONFIG"))
    values: dict[str, Any] = {**from_file, **given}
    known = {field: stage for stage, model in STAGES.items() for field in model.model_fields}
    for name in values:
        if name not in known:
            where = f"{PREFIX}{name.upper()}" if name in given else f"'{name}' in the configuration file"
            message = f"unknown setting {where}; 'docs/reference/settings.md' lists them all"
            raise SettingsError(message)
    stages = {
        stage: _validated(model, {name: values[name] for name in values if known[name] == stage}, PREFIX)
        for stage, model in STAGES.items()
    }
    settings = Settings.model_validate(
        {
            **stages,
            "profiles": {"default": Profile()}
            | {
                name: _validated(Profile, table, f"[profile.{name}] in the configuration file: ")
                for name, table in profiles.items()
            },
        }
    )
    _check_autofile(settings)
    return settings


def _check_autofile(settings: Settings) -> None:
    """Refuse automatic filing where nothing is filed, and where two persons must approve."""
    if settings.filing.autofile and settings.filing.cybertip == "off":
        raise SettingsError("CORDON_AUTOFILE needs CORDON_CYBERTIP: it says where the worker files")
    if settings.filing.autofile and settings.custody.dual_control:
        raise SettingsError(
            "CORDON_AUTOFILE does not go with CORDON_DUAL_CONTROL: the worker never stands for a custodian"
        )


def _read_file(named: str | None) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The file's settings and its profile tables; nothing if no file was named and none is there."""
    path = Path(named or "cordon.toml")
    if named is None and not path.is_file():
        return {}, {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        message = f"cannot read the configuration file {path}: {type(error).__name__}"
        raise SettingsError(message) from error
    profiles = table.pop("profile", {})
    if not isinstance(profiles, dict) or not all(isinstance(value, dict) for value in profiles.values()):
        message = f"{path}: write profiles as tables, '[profile.NAME]'"
        raise SettingsError(message)
    return table, profiles


StageModel = TypeVar("StageModel", bound=_Stage)


def _validated(model: type[StageModel], values: Mapping[str, Any], prefix: str) -> StageModel:
    """Validate one stage, naming the setting as its writer knows it."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        shown = prefix + (name.upper() if prefix == PREFIX else name) if name else ""
        message = f"{shown}: {first['msg']}" if shown else str(first["msg"])
        raise SettingsError(message) from error
