"""A bad configuration, a missing library: a clear error at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import libtelemetry
from harness import ROOT, Collector, environment
from libtelemetry import Client, ConfigError, LibraryNotFound, Stats, _native


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"endpiont": "http://x"}, ["endpiont", "endpoint"]),
        ({"batch": {"max_event": 1}}, ["max_event", "max_events"]),
        ({"retry": {"initial": 1}}, ["initial", "initial_ms"]),
        ({"tls": {"cafile": "x"}}, ["cafile", "ca_file"]),
        ({"queue_bytes": "many"}, ["queue_bytes"]),
        ({"queue_bytes": -1}, ["queue_bytes"]),
        ({"batch": 5}, ["batch"]),
        ({"format": "xml"}, ["format", "xml"]),
        ({"compression": 3}, ["compression"]),
        ({"on_full": "explode"}, ["on_full"]),
        ({"context": {"now": object()}}, ["context"]),
        ({"endpoint": "gopher://x"}, ["endpoint"]),
    ],
)
def test_a_bad_configuration_names_the_key(keys: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Client(**keys)
    assert isinstance(caught.value, ValueError)
    for word in words:
        assert word in str(caught.value)


def test_none_counts_as_not_given(collector: Collector) -> None:
    with Client(collector.url, format=None, api_key=None, batch=None) as client:
        assert client.enqueue({"n": 1})
    assert collector.stats()["unique"] == 1


def test_the_environment_supplies_what_is_left_out(collector: Collector) -> None:
    code = "import libtelemetry; c = libtelemetry.Client(); assert c.enqueue('{}') and c.flush(60)"
    subprocess.run([sys.executable, "-c", code], env=environment(collector.url), check=True)
    assert collector.stats()["unique"] == 1


def test_disabled_is_a_cheap_true(collector: Collector) -> None:
    code = "import libtelemetry; c = libtelemetry.Client(); assert c.enqueue('{}') and c.flush(60)"
    env = environment(collector.url, TELEMETRY_DISABLED="1")
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    assert collector.stats()["received"] == 0


def run_with_library(path: str) -> str:
    """What LibraryNotFound says when LIBTELEMETRY_PATH is `path`."""
    code = (
        "import libtelemetry\n"
        "try:\n    libtelemetry.Client()\n"
        "except ImportError as e:\n    print(type(e).__name__, e)"
    )
    env = environment()
    if path:
        env["LIBTELEMETRY_PATH"] = path
    else:
        del env["LIBTELEMETRY_PATH"]
        env["LD_LIBRARY_PATH"] = ""
    return subprocess.run(
        [sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True
    ).stdout


def test_a_missing_library_lists_every_path_tried(tmp_path: Path) -> None:
    assert issubclass(LibraryNotFound, ImportError)
    said = run_with_library(str(tmp_path / "nowhere.so"))
    assert said.startswith("LibraryNotFound")
    assert str(tmp_path / "nowhere.so") in said
    said = run_with_library(str(tmp_path))
    assert "directory" in said
    inside = ROOT / "python" / "libtelemetry"
    if not list(inside.glob("*.so*")):
        said = run_with_library("")
        for place in (str(inside / "libtelemetry.so.0"), "\n  libtelemetry.so.0"):
            assert place in said


def test_another_library_is_refused(tmp_path: Path) -> None:
    said = run_with_library("/lib/x86_64-linux-gnu/libc.so.6")
    assert "not libtelemetry" in said
    source = tmp_path / "future.c"
    source.write_text("unsigned telemetry_abi_version(void) { return 99; }")
    library = tmp_path / "future.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    said = run_with_library(str(library))
    assert "99" in said
    assert "ABI" in said


def test_version_and_layout_are_those_of_the_library() -> None:
    version = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M)
    assert version is not None
    assert libtelemetry.__version__ == version.group(1) == _native.load().version
    assert 'dynamic = ["version"]' in (ROOT / "python" / "pyproject.toml").read_text()
    header = (ROOT / "include" / "telemetry.h").read_text()
    struct = re.search(
        r"typedef struct telemetry_stats_t \{(.*?)\} telemetry_stats_t;", header, re.S
    )
    assert struct is not None
    assert tuple(re.findall(r"uint64_t (\w+);", struct.group(1))) == Stats._fields


def test_types_are_strict() -> None:
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "libtelemetry"]
    done = subprocess.run(command, cwd=ROOT / "python", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_starts_and_loads_nothing() -> None:
    code = (
        "import sys, os, libtelemetry\n"
        "assert len(os.listdir('/proc/self/task')) == 1\n"
        "assert 'libtelemetry.so' not in open('/proc/self/maps').read()\n"
        "heavy = {'asyncio', 'gevent', 'multiprocessing', 'threading'}\n"
        "assert not heavy & set(sys.modules) - before"
    )
    subprocess.run(
        [sys.executable, "-c", "import sys; before = set(sys.modules)\n" + code],
        env=environment(PYTHONNOUSERSITE="1"),
        check=True,
        cwd=os.sep,
    )


@pytest.mark.parametrize(
    ("variable", "program", "meant"),
    [
        ("TELEMETRY_BATCH", "libtelemetry.Client()", "TELEMETRY_BATCH_MAX_EVENTS"),
        ("TELEMETRY_ENDPOIT", "libtelemetry.Client()", "TELEMETRY_ENDPOINT"),
        ("TELEMETRY_FLEET_GRACE", "libtelemetry.fleet.Fleet()", "TELEMETRY_FLEET_GRACE_MS"),
    ],
)
def test_a_variable_that_is_read_by_nobody_is_warned_about(
    collector: Collector, variable: str, program: str, meant: str
) -> None:
    def said(**more: str) -> str:
        source = f"import libtelemetry, libtelemetry.fleet; {program}"
        env = environment(collector.url, **more)
        done = subprocess.run(
            [sys.executable, "-c", source], env=env, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    warned = said(**{variable: "hush"})
    assert variable in warned and meant in warned and "hush" not in warned
    assert said() == ""
