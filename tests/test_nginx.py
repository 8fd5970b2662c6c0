"""``docs/deploy/nginx.conf``, in a real nginx: only ports and paths are changed.

A proxy is where media would reach a disk (nginx spools bodies over 16 KiB as it comes) and queries a log.
"""

import contextlib
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

from tests.ports import held_port

CONFIGURATION = Path(__file__).resolve().parents[1] / "docs" / "deploy" / "nginx.conf"
CANARY = b"canary-of-a-medium"


def nginx_program() -> str:
    found = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    assert found is not None, "scripts/test-tools installs nginx"
    return found


class Proxy(NamedTuple):
    """A running nginx."""

    port: int
    folder: Path
    certificates: trustme.CA

    def connect(self) -> ssl.SSLSocket:
        context = ssl.create_default_context()
        self.certificates.configure_trust(context)
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        return context.wrap_socket(raw, server_hostname="cordon.example.org")

    def written(self) -> bytes:
        """All that stands in files beneath its folder, but for its own configuration."""
        files = [path for path in self.folder.rglob("*") if path.is_file() and path.suffix != ".conf"]
        return b"".join(path.read_bytes() for path in files)


def configure_nginx(folder: Path, port: int, upstream: int, level: str = "emerg") -> tuple[Path, trustme.CA]:
    """Lay out ``docs/deploy/nginx.conf`` in a folder: other ports and paths, nothing else."""
    certificates = trustme.CA()
    certificate = certificates.issue_cert("cordon.example.org")
    certificate.private_key_pem.write_to_path(folder / "privkey.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "fullchain.pem")
    site = CONFIGURATION.read_text()
    changes = {
        r"listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        r"listen \[::\]:443 ssl;": "",
        r"server 127\.0\.0\.1:8081": f"server 127.0.0.1:{upstream}",
        r"server 127\.0\.0\.1:8082.*": "",
        r"/etc/ssl/cordon/": f"{folder}/",
        r"/var/log/nginx/cordon-error\.log emerg": f"{folder}/site.log {level}",
    }
    for there, here in changes.items():
        site, count = re.subn(there, here, site)
        assert count >= 1, there
    (folder / "site.conf").write_text(site)
    configuration = folder / "nginx.conf"
    places = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{place}_temp_path {folder}/temp-{place};" for place in places)
    configuration.write_text(
        f"daemon off; master_process off; pid {folder}/nginx.pid; events {{}}\n"
        f"http {{ {temporary} include {folder}/site.conf; }}\n"
    )
    return configuration, certificates


@contextlib.contextmanager
def running_nginx(
    folder: Path, upstream: int, level: str = "emerg", *, wrapper: tuple[str, ...] = ()
) -> Iterator[Proxy]:
    with held_port() as port, (folder / "stderr.log").open("wb") as errors:
        configuration, certificates = configure_nginx(folder, port, upstream, level)
        command = [*wrapper, nginx_program(), "-c", str(configuration), "-e", "stderr"]
        process = subprocess.Popen(command, stderr=errors)
        try:
            while not answers(port):
                assert process.poll() is None, (folder / "stderr.log").read_text()
            yield Proxy(port, folder, certificates)
        finally:
            process.terminate()
            process.wait(timeout=10)


def ask(proxy: Proxy, target: str) -> bytes:
    with proxy.connect() as client:
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: cordon.example.org\r\n\r\n".encode())
        return client.recv(65536).split(b"\r\n")[0]


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.fixture
def upstream() -> Iterator[socket.socket]:
    """Stands where a gate stands."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        yield server


@pytest.fixture
def proxy(tmp_path: Path, upstream: socket.socket) -> Iterator[Proxy]:
    with running_nginx(tmp_path, upstream.getsockname()[1]) as running:
        yield running


def test_nginx_accepts_its_configuration(tmp_path: Path) -> None:
    configuration, _ = configure_nginx(tmp_path, 8443, 8081)

    done = subprocess.run(
        [nginx_program(), "-t", "-c", str(configuration), "-e", "stderr"],
        check=False,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


def test_nginx_hands_a_body_on_while_it_arrives_and_lays_none_of_it_down(
    proxy: Proxy, upstream: socket.socket
) -> None:
    half = CANARY * 20_000
    head = f"POST /v1/ingest HTTP/1.1\r\nHost: cordon.example.org\r\nContent-Length: {2 * len(half)}\r\n\r\n"

    with proxy.connect() as client:
        client.sendall(head.encode() + half)
        gate, _ = upstream.accept()
        gate.settimeout(10)
        with gate:
            # The second half is not sent before the first has come through.
            received = b""
            while len(received.partition(b"\r\n\r\n")[2]) < len(half):
                received += gate.recv(65536)
            assert CANARY not in proxy.written()
            client.sendall(half)
            while len(received.partition(b"\r\n\r\n")[2]) < 2 * len(half):
                received += gate.recv(65536)
            gate.sendall(b"HTTP/1.1 204 No Content\r\nCordon-Verdict: clear\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 204")
    assert CANARY not in proxy.written()


@pytest.mark.parametrize(("level", "told"), [("emerg", False), ("error", True)])
def test_nginx_writes_no_query_to_a_log_at_the_level_that_we_set(
    tmp_path: Path, level: str, *, told: bool
) -> None:
    """At nginx's own level it does write it: so its absence at ours means something."""
    with held_port() as unanswered, running_nginx(tmp_path, unanswered, level) as proxy:
        answer = ask(proxy, "/v1/media?url=https://canary.example/")
        assert answer == b"HTTP/1.1 502 Bad Gateway"
    assert (b"canary.example" in proxy.written()) is told


@pytest.mark.parametrize("path", ["/metrics", "/livez", "/readyz", "/"])
def test_nginx_keeps_inside_what_needs_no_token(proxy: Proxy, path: str) -> None:
    assert ask(proxy, path) == b"HTTP/1.1 404 Not Found"
