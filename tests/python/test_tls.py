"""TLS: a server that no trusted authority vouches for gets no event."""

from __future__ import annotations

import http.server
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import wait_until
from libtelemetry import Client


class Sink(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bodies: list[bytes] = []

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def openssl(directory: Path, command: str) -> None:
    subprocess.run(["openssl", *command.split()], cwd=directory, check=True, capture_output=True)


def authority(directory: Path, name: str) -> Path:
    """A certificate authority of our own; its certificate, with the key beside it."""
    key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    openssl(directory, f"req -x509 {key} -subj /CN={name} -keyout {name}.key -out {name}.pem")
    return directory / f"{name}.pem"


@pytest.fixture
def tls_sink(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An HTTPS server; its URL, and the authority that vouches for it."""
    ca = authority(tmp_path, "ours")
    key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    openssl(tmp_path, f"req {key} -subj /CN=localhost -keyout server.key -out server.csr")
    (tmp_path / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    signed = "x509 -req -in server.csr -CA ours.pem -CAkey ours.key -CAcreateserial -days 2"
    openssl(tmp_path, f"{signed} -extfile names -out server.pem")

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    Sink.bodies.clear()
    yield f"https://localhost:{server.server_port}/", ca
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_right_authority_delivers(tls_sink: tuple[str, Path]) -> None:
    url, ca = tls_sink
    with Client(url, tls={"ca_file": ca}, compression="none") as client:
        assert client.enqueue({"n": 1})
        assert client.flush(60)
    assert len(Sink.bodies) == 1
    assert b'"n":1' in Sink.bodies[0].replace(b" ", b"")


@pytest.mark.parametrize("told", ["another", "none"])
def test_a_wrong_authority_does_not(told: str, tls_sink: tuple[str, Path], tmp_path: Path) -> None:
    url, _ = tls_sink
    another = authority(tmp_path, "another")
    client = Client(url, tls={"ca_file": another} if told == "another" else None)
    assert client.enqueue({"n": 1})
    wait_until("an attempt", lambda: client.stats().retries)
    assert client.flush(0.5) is False
    stats = client.stats()
    assert (stats.delivered, stats.rejected, stats.queue_events) == (0, 0, 1), "kept"
    client.shutdown(0)
    assert Sink.bodies == []
