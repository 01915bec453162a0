"""Programs of the OpenTelemetry tests: a strict receiver, a real collector, the SDK's versions."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import (
    HERE,
    PATIENCE,
    ROOT,
    Collector,
    Failed,
    Program,
    accepts,
    environment,
    free_port,
)

AGES = ("newest", "year-old")
"""The versions of the SDKs that tests/setup.sh installs."""


def sdk(age: str = "newest") -> str:
    """The directory of the SDKs of that age; without it the test is skipped."""
    directory = ROOT / ".venv" / "sdks" / age
    if not (directory / "opentelemetry").exists():
        pytest.skip(f"{directory} is missing: run tests/setup.sh")
    return str(directory)


def sdk_environment(age: str, endpoint: str = "", **more: str) -> dict[str, str]:
    """The environment of a program that uses this tree's package and the SDKs of that age."""
    env = {
        key: value
        for key, value in environment(endpoint, **more).items()
        if key in more or not key.startswith("OTEL_")
    }
    env["PYTHONPATH"] += os.pathsep + sdk(age)
    return env


def run_with_sdk(age: str, code: str, *args: str, **more: str) -> Any:
    """Run a program with the SDKs of that age; the JSON that it prints last."""
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        env=sdk_environment(age, **more),
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
    )
    if done.returncode:
        raise Failed(f"status {done.returncode}\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


class OtlpSink(Collector):
    """otlp_sink.py; to be asked like a collector."""

    def __init__(self, directory: Path) -> None:
        self.out = directory / "otlp.ndjson"
        argv = [sys.executable, str(HERE / "otlp_sink.py"), str(self.out)]
        Program.__init__(self, argv, directory / "sink.log", sdk_environment("newest"))
        line = re.compile(r"listening on (http://\S+)")
        found = self.wait_for("the sink listens", lambda: line.search(self.output()))
        self.url: str = found.group(1)

    def __enter__(self) -> OtlpSink:
        return self

    def records(self) -> list[dict[str, Any]]:
        """Every span and log record it took. Fails if it was sent anything that is not OTLP."""
        assert self.stats()["errors"] == []
        return super().events()

    def events(self) -> list[dict[str, Any]]:
        """The attributes of each of them, as the applications of the tests set them."""
        return [record["attributes"] for record in self.records()]


class Rotel(Program):
    """A real collector, as the package of that name carries it; it exports to `sink`."""

    def __init__(self, directory: Path, sink: OtlpSink) -> None:
        port = free_port()
        argv = [
            str(Path(sdk()) / "rotel" / "rotel-agent"),
            "start",
            *("--otlp-http-endpoint", f"127.0.0.1:{port}"),
            *("--otlp-grpc-endpoint", f"127.0.0.1:{free_port()}"),
            *("--pid-file", str(directory / "rotel.pid")),
            *("--batch-timeout", "50ms"),
            *("--otlp-exporter-endpoint", sink.url),
            *("--otlp-exporter-protocol", "http"),
        ]
        env = sdk_environment("newest")
        # It is linked to the library of the interpreter that it was built for.
        env["LD_LIBRARY_PATH"] = str(sysconfig.get_config_var("LIBDIR"))
        super().__init__(argv, directory / "rotel.log", env, cwd=directory)
        self.url = f"http://127.0.0.1:{port}"
        try:
            self.wait_for("rotel listens", lambda: accepts(port))
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> Rotel:
        return self


def wait_records(sink: OtlpSink, count: int, program: Callable[[], str] | None = None) -> None:
    """Wait until the sink has that many records."""
    sink.wait_unique(count)
    found = sink.stats()
    assert found["received"] == count, (found, program() if program else "")
