"""Run programs that have fleets of Python workers, and ask them by HTTP."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
from fleets import WAIT_S, until, whole_lines
from harness import BIN, ROOT, Program

HERE = Path(__file__).resolve().parent
SDKS = ROOT / ".venv" / "sdks" / "newest"


def environment(directory: Path, *, sdks: bool = False, **more: str) -> dict[str, str]:
    """That of a program whose workers write to that directory."""
    env = {key: one for key, one in harness.environment().items() if not key.startswith("OTEL_")}
    # What is buffered is to be seen once.
    env.pop("PYTHONUNBUFFERED", None)
    paths = [str(HERE), env["PYTHONPATH"]] + ([str(SDKS)] if sdks else [])
    env["PYTHONPATH"] = os.pathsep.join(paths)
    env["FLEET_TEST_DIR"] = str(directory)
    env["TELEMETRY_RUNTIME_DIR"] = str(directory / "runtime")
    return {**env, **more}


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=WAIT_S)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(WAIT_S)
        self.sock.connect(str(self.path))


class App(Program):
    """``python_program.py CASE ...``, its health endpoint at a socket in its directory."""

    def __init__(
        self, directory: Path, *arguments: str, argv: list[str] | None = None, **env: Any
    ) -> None:
        self.directory = directory
        self.endpoint = directory / "health"
        argv = argv or [str(HERE / "python_program.py"), *arguments]
        command = [str(BIN / "python"), *argv]
        super().__init__(command, directory / "log", environment(directory, **env), cwd=directory)

    def get(self, path: str) -> tuple[int, Any]:
        """Status code and JSON, or (0, None) while nobody listens."""
        connection = _Unix(self.endpoint)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        except OSError:
            return 0, None
        finally:
            connection.close()

    def wait_for(self, what: str, ready: Callable[[], Any], seconds: float = WAIT_S) -> Any:
        """As any program's, but longer."""
        return super().wait_for(what, ready, seconds)

    def stop(self, sig: int = signal.SIGTERM, seconds: float = WAIT_S) -> int:
        """As any program's, but longer."""
        return super().stop(sig, seconds)

    def until_ready(self) -> None:
        """Wait until /readyz says 200, and all workers are ready."""

        def ready() -> bool:
            code, _ = self.get("/readyz")
            slots = self.status()["slots"] if code == 200 else {"ready": 0, "want": 1}
            return bool(slots["ready"] == slots["want"])

        self.wait_for("all are ready", ready)

    def status(self) -> dict[str, Any]:
        """/status, as soon as somebody answers."""
        found: dict[str, Any] = self.wait_for("an answer", lambda: self.get("/status")[1])
        return found

    def workers(self) -> dict[str, dict[str, Any]]:
        """The workers by name, from /status."""
        return {one["name"]: one for one in self.status()["workers"] if one["pid"]}

    def notes(self, what: str = "", **fields: Any) -> list[dict[str, Any]]:
        """What workers wrote down."""
        lines = whole_lines(self.directory / "notes").splitlines()
        found = [json.loads(line) for line in lines]
        return [one for one in found if what in ("", one["what"]) and fields.items() <= one.items()]

    def tell(self, name: str, order: str) -> None:
        """Have a worker do that; it reads whole files only."""
        part = self.directory / f"{name}.part"
        part.write_text(order)
        part.rename(self.directory / name)

    def until_gone(self, pids: list[int]) -> None:
        """Wait until none of them runs."""
        until("all end", lambda: not any(map(harness.alive, pids)))


def run(directory: Path, code: str, **env: Any) -> str:
    """The output of a piece of Python; it must end well."""
    program = App(directory, argv=["-c", code], **env)
    with program:
        status = program.process.wait(WAIT_S)
        output = program.output()
    assert status == 0, output
    sys.stdout.write(output)
    return output
