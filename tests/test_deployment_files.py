"""The files that people deploy with keep what they say.

No container engine and no systemd is at hand where this runs: what they read is read here, not started. The
wheel and the health check are real; ``test_nginx.py`` runs nginx.
"""

import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from app.settings import ServeSettings, load

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "docs" / "deploy"

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
GATES = ["gate-1", "gate-2"]
OURS = [*GATES, "worker"]

LOCKS = ["requirements.lock", "requirements-build.lock", "requirements-dev.lock"]
# A name, the extras of it that are asked for, and one version.
PINNED = r"^([a-z0-9._-]+)(?:\[[a-z0-9, _-]+\])?==(\S+)"


def mebibytes(size: str) -> int:
    """Read a size as compose files and nginx write it: ``4g``, ``1025m``."""
    return int(size[:-1]) * {"m": 1, "g": 1024}[size[-1]]


class Instruction(NamedTuple):
    """One line of a Dockerfile, its continuations joined."""

    name: str
    value: str


def dockerfile_stages() -> list[list[Instruction]]:
    """The instructions of each stage, the first of each being its FROM."""
    text = "\n".join(
        line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")
    )
    stages: list[list[Instruction]] = []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if not line.strip():
            continue
        instruction = Instruction(*line.split(maxsplit=1))
        if instruction.name == "FROM":
            stages.append([])
        if stages:
            stages[-1].append(instruction)
    return stages


def values(stage: list[Instruction], name: str) -> list[str]:
    return [instruction.value for instruction in stage if instruction.name == name]


def test_compose_runs_two_gates_a_worker_and_postgresql() -> None:
    assert {name for name, service in SERVICES.items() if "profiles" not in service} == {*OURS, "postgres"}
    assert [SERVICES[name]["command"] for name in OURS] == [["serve"], ["serve"], ["worker"]]


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_read_only_and_without_privileges(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", SERVICES)
def test_no_container_has_swap_or_leaves_a_core_dump(name: str) -> None:
    service = SERVICES[name]

    assert service["memswap_limit"] == service["mem_limit"]
    assert service["mem_swappiness"] == 0
    assert service["ulimits"]["core"] == 0


@pytest.mark.parametrize("name", GATES)
def test_a_gate_may_lock_its_memory_and_has_enough_of_it(name: str) -> None:
    settings = load({})
    needed = settings.intake.inflight_bytes + settings.hashing.max_decode_bytes

    assert SERVICES[name]["ulimits"]["memlock"] == -1
    assert mebibytes(SERVICES[name]["mem_limit"]) * 1024**2 > 1.5 * needed


@pytest.mark.parametrize("name", OURS)
def test_cordon_has_no_volume_but_for_the_snapshots_and_the_pinned_custodians(name: str) -> None:
    service = SERVICES[name]
    mount = "snapshots:/var/lib/cordon/snapshots"

    assert service["volumes"][:1] == [mount if name == "worker" else f"{mount}:ro"]
    assert service["volumes"][1:] == ["./secrets/pinned:/etc/cordon/pinned:ro"]
    assert "tmpfs" not in service


def test_one_container_alone_writes_the_pinned_custodians_and_it_serves_nothing() -> None:
    """As the owner of their directory, without a capability, and only when somebody runs it."""
    custody = SERVICES["custody"]

    assert custody["volumes"] == ["./secrets/pinned:/etc/cordon/pinned"]
    assert custody["environment"]["CORDON_CUSTODIANS"] == "/etc/cordon/pinned/custodians"
    assert (custody["profiles"], custody["restart"], custody["user"]) == (["custody"], "no", "0")
    assert custody["networks"] == ["inner"]
    assert "ports" not in custody


@pytest.mark.parametrize("name", GATES)
def test_a_gate_is_strict_and_reached_from_this_machine_alone(name: str) -> None:
    service = SERVICES[name]

    assert service["environment"]["CORDON_STRICT"] == "true"
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


@pytest.mark.parametrize("name", ["worker", "postgres"])
def test_what_needs_no_way_out_has_none(name: str) -> None:
    assert SERVICES[name]["networks"] == ["inner"]
    assert COMPOSE["networks"]["inner"]["internal"] is True
    assert "ports" not in SERVICES[name]


def test_what_the_compose_file_sets_are_settings_that_cordon_knows(tmp_path: Path) -> None:
    secret = tmp_path / "cordon.toml"
    secret.write_text(
        'database_url = "postgresql://cordon:x@postgres/cordon"\nplace_key = "' + "k" * 48 + '"\n'
    )

    for name in OURS:
        assert SERVICES[name]["environment"]["CORDON_CONFIG"] == "/run/secrets/cordon.toml"
        settings = load({**SERVICES[name]["environment"], "CORDON_CONFIG": str(secret)})
        assert settings.serve.strict
        assert settings.store.database_url is not None
        assert str(settings.roster_path) == "/etc/cordon/pinned/custodians"


def test_no_password_stands_in_the_compose_file_or_in_an_environment() -> None:
    text = (ROOT / "docker-compose.yml").read_text()

    assert "CORDON_DATABASE_URL" not in text
    assert not re.search(r"POSTGRES_PASSWORD\b(?!_FILE)", text)
    assert {secret["file"].split("/")[1] for secret in COMPOSE["secrets"].values()} == {"secrets"}
    assert "secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_a_gate_starts_after_the_database_and_may_finish_what_it_began() -> None:
    for name in GATES:
        service = SERVICES[name]
        assert service["depends_on"]["postgres"]["condition"] == "service_healthy"
        assert int(service["stop_grace_period"].removesuffix("s")) > ServeSettings().drain_seconds


@pytest.mark.parametrize("name", ["worker", "postgres"])
def test_what_has_no_health_check_in_its_image_has_one_of_its_own(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"


def test_postgresql_is_durable_and_its_log_quotes_no_rows() -> None:
    given = set(re.findall(r"-c (\S+)", SERVICES["postgres"]["command"]))

    assert {"fsync=on", "synchronous_commit=on", "full_page_writes=on"} <= given
    assert {"log_error_verbosity=terse", "log_min_error_statement=panic"} <= given


def test_the_image_is_built_in_one_stage_and_run_in_another() -> None:
    build, final = dockerfile_stages()

    assert values(final, "FROM") == ["${SLIM}"]
    assert values(final, "COPY") == ["--from=build /opt/cordon /opt/cordon"]
    assert not [run for run in values(final, "RUN") if "pip" in run or "apt" in run]
    assert "ADD" not in {instruction.name for instruction in [*build, *final]}


def test_the_image_installs_nothing_without_a_hash() -> None:
    build, _ = dockerfile_stages()
    installs = re.findall(r"pip install ([^&]+)", " && ".join(values(build, "RUN")))

    assert len(installs) == 3
    for options in installs:
        assert "--require-hashes" in options or ("--no-deps" in options and "--no-index" in options)


def test_the_image_runs_cordon_as_a_user_without_rights() -> None:
    _, final = dockerfile_stages()
    (user,) = values(final, "USER")

    assert all(int(part) >= 1000 for part in user.split(":"))
    assert f"--uid {user.split(':')[0]}" in " ".join(values(final, "RUN"))
    assert values(final, "ENTRYPOINT") == ['["cordon"]']
    assert values(final, "CMD") == ['["serve"]']
    assert "PYTHONDONTWRITEBYTECODE=1" in " ".join(values(final, "ENV"))


class Health(BaseHTTPRequestHandler):
    """Answers ``/livez`` with the status that its server was given."""

    def do_GET(self) -> None:
        self.send_response(self.server.status if self.path == "/livez" else 404)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (None, 1)])
def test_the_health_check_tells_a_live_gate_from_a_dead_one(status: int | None, code: int) -> None:
    _, final = dockerfile_stages()
    (check,) = values(final, "HEALTHCHECK")
    command = yaml.safe_load(check.partition("CMD ")[2])
    assert command[:3] == ["python", "-I", "-c"]
    server = HTTPServer(("127.0.0.1", 0), Health)
    server.status = status  # type: ignore[attr-defined]
    if status is None:
        server.server_close()
    else:
        threading.Thread(target=server.handle_request, daemon=True).start()

    script = command[3].replace("8080", str(server.server_address[1]))
    done = subprocess.run([sys.executable, "-I", "-c", script], check=False, capture_output=True, timeout=10)

    server.server_close()
    assert done.returncode == code


def test_the_image_is_built_from_named_files_alone() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    build, _ = dockerfile_stages()
    copied = {name for copy in values(build, "COPY") for name in copy.split()[:-1]}

    assert rules[0] == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied


COMPILED = {"app/hashing/_pixels.abi3.so", "app/matching/_hamming.abi3.so"}


def built_wheel(directory: Path, **environment: str) -> Path:
    """A wheel built from a copy of what the image is built from."""
    source = directory / "source"
    for name in ("app", "migrations"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, str(directory)],
        cwd=source,
        env=os.environ | environment,
        check=True,
        capture_output=True,
    )
    (wheel,) = directory.glob("cordon-*.whl")
    return wheel


def test_a_wheel_carries_the_migrations_the_command_and_the_compiled_loops(tmp_path: Path) -> None:
    wheel = built_wheel(tmp_path)
    held = set(zipfile.ZipFile(wheel).namelist())

    source = tmp_path / "source"
    files = [path for path in (source / "app").rglob("*") if path.is_file()]
    files += (source / "migrations").rglob("*.py")
    built_from = {".c", ".pyi"}
    assert {str(path.relative_to(source)) for path in files if path.suffix not in built_from} <= held
    assert any(name.endswith("entry_points.txt") for name in held)
    assert held >= COMPILED
    assert "-abi3-" in wheel.name, "one for all versions of Python from 3.11 on"


WITHOUT = """
from pathlib import Path
import numpy as np
from app.controls import controls
from app.hashing import engine as hashing, scan
from app.matching import engine
from app.hashing.sandbox import Sandbox
from app.matching.hamming import HammingIndex
from app.settings import HashingSettings, Settings, StoreSettings
assert not engine.COMPILED and engine.ENGINE is engine.fallback
assert not hashing.COMPILED and hashing.ENGINE is hashing.fallback
nowhere = Settings(store=StoreSettings(state_dir=Path("nowhere")))
told = {each.control: each for each in controls(Sandbox(HashingSettings()), nowhere)}
for name in ("compiled_search", "compiled_hashing"):
    assert not told[name].in_force and not told[name].required and "C compiler" in told[name].detail
scan.preload()
values = np.random.default_rng(1).integers(0, 256, (9_000, 32), np.uint8)
print(HammingIndex.build(values).search(values[7:8], 31).entries.tolist())
"""


def test_where_there_is_no_compiler_a_wheel_is_built_that_hashes_and_searches_without(tmp_path: Path) -> None:
    wheel = built_wheel(tmp_path, CC="no-such-compiler")
    assert COMPILED.isdisjoint(zipfile.ZipFile(wheel).namelist())

    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT],
        cwd=tmp_path / "installed",
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout.strip() == "[7]"


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_dependency_has_a_hash_and_no_file_names_a_registry(name: str) -> None:
    text = (ROOT / name).read_text()
    requirements = re.split(r"\n(?=\S)", text.strip())

    assert "://" not in text
    assert "--index" not in text
    assert len(requirements) >= 3
    for requirement in requirements:
        assert re.match(PINNED, requirement)
        assert "--hash=sha256:" in requirement


def locked(name: str) -> dict[str, set[str]]:
    """What a lock file pins: versions of each name, several where they differ by platform."""
    pins: dict[str, set[str]] = {}
    for package, version in re.findall(PINNED, (ROOT / name).read_text(), re.MULTILINE):
        pins.setdefault(package, set()).add(version)
    return pins


def test_the_locks_hold_what_the_project_asks_for_and_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    def asked(requirements: list[Any]) -> set[str]:
        names = [re.match(r"[A-Za-z0-9._-]+", line) for line in requirements if isinstance(line, str)]
        return {name.group().lower() for name in names if name is not None}

    runtime, build, developers = (locked(name) for name in LOCKS)
    assert asked(project["project"]["dependencies"]) <= set(runtime)
    assert asked(project["dependency-groups"]["build"]) <= set(build)
    assert asked(project["dependency-groups"]["dev"]) <= set(developers)
    for pins in (runtime, build):
        assert pins.items() <= developers.items()


def unit_settings() -> dict[str, list[str]]:
    """All values of each setting of the systemd unit, sections put together."""
    lines = (DEPLOY / "cordon@.service").read_text().splitlines()
    settings: dict[str, list[str]] = {}
    for line in lines:
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            settings.setdefault(name, []).append(value)
    return settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("PrivateDevices", "yes"),
        ("MemoryDenyWriteExecute", "yes"),
        ("CapabilityBoundingSet", ""),
        ("MemorySwapMax", "0"),
        ("LimitCORE", "0"),
        ("LimitMEMLOCK", "infinity"),
        ("KillMode", "mixed"),
        ("OOMPolicy", "continue"),
        ("StateDirectoryMode", "0700"),
    ],
)
def test_the_systemd_unit_is_hardened(name: str, value: str) -> None:
    assert unit_settings()[name] == [value]


def test_the_systemd_unit_leaves_decoders_what_they_lock_themselves_with() -> None:
    settings = unit_settings()
    allowed = settings["SystemCallFilter"][0].split()
    refused = settings["SystemCallFilter"][1].removeprefix("~").split()

    assert {"seccomp", "landlock_create_ruleset", "landlock_restrict_self"} <= set(allowed)
    assert {"io_uring_setup", "io_uring_enter", "io_uring_register"} <= set(refused)
    assert set(settings["RestrictNamespaces"][0].split()) == {"user", "net", "ipc", "uts"}
    assert "AF_UNIX" in settings["RestrictAddressFamilies"][0].split()


def test_the_systemd_unit_sets_what_cordon_knows_and_waits_for_what_was_begun(tmp_path: Path) -> None:
    configuration = tmp_path / "cordon.toml"
    configuration.touch()
    given = dict(pair.split("=", 1) for line in unit_settings()["Environment"] for pair in line.split())

    settings = load({**given, "CORDON_CONFIG": str(configuration)})

    assert settings.serve.strict
    assert str(settings.roster_path) == "/etc/cordon/custodians"
    assert int(unit_settings()["TimeoutStopSec"][0]) > settings.serve.drain_seconds


@pytest.mark.parametrize(
    ("name", "pattern"), [("nginx.conf", r"client_max_body_size (\w+);"), ("Caddyfile", r"max_size (\w+)iB")]
)
def test_a_proxy_takes_the_largest_medium_that_cordon_takes(name: str, pattern: str) -> None:
    found = re.search(pattern, (DEPLOY / name).read_text())

    assert found is not None
    assert mebibytes(found.group(1).lower()) * 1024**2 > load({}).intake.max_video_bytes


@pytest.mark.parametrize("name", ["nginx.conf", "Caddyfile"])
def test_a_proxy_reaches_the_ports_that_the_gates_are_published_on(name: str) -> None:
    text = (DEPLOY / name).read_text()

    for gate in GATES:
        assert SERVICES[gate]["ports"][0].removesuffix(":8080") in text


def test_caddy_buffers_no_request_and_logs_none() -> None:
    lines = [line.strip() for line in (DEPLOY / "Caddyfile").read_text().splitlines()]
    directives = {line.split()[0] for line in lines if line and not line.startswith("#")}

    assert not directives & {"request_buffers", "response_buffers", "buffer_requests", "buffer_responses"}
    assert [line for line in lines if line.startswith("log")] == ["log default {"]
    assert "exclude http.log.error http.handlers.reverse_proxy" in lines


def test_the_workflow_to_paste_keeps_the_list_in_memory_and_names_no_file_that_matched() -> None:
    workflow = yaml.safe_load((ROOT / "docs" / "ci-workflow.yml").read_text())
    commands = " ".join(step.get("run", "") for step in workflow["jobs"]["gate"]["steps"])

    assert workflow["permissions"] == {"contents": "read"}
    assert "ingest --bank /dev/shm/list.csv" in commands
    assert "--hide-matched-sources" in commands


def test_ci_runs_what_the_readme_tells_a_reader_to_run() -> None:
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "make test"
    assert "make test" in (ROOT / "README.md").read_text()


def test_make_alone_lists_the_tasks() -> None:
    done = subprocess.run(["make"], cwd=ROOT, check=True, capture_output=True, text=True)
    listed = {line.split()[1] for line in done.stdout.splitlines()}

    assert {"setup", "demo", "serve", "test", "check", "docs", "bench", "lock", "clean"} <= listed
