"""telemetry.hpp with two compilers, standards and libraries, with sanitizers, and its example.

The programs say on stdout which events their clients took; the collector says which arrived.
"""

from __future__ import annotations

import concurrent.futures
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from harness import (
    LIBRARY,
    PATIENCE,
    ROOT,
    Collector,
    Server,
    compare,
    environment,
    free_port,
    total,
)

HERE = Path(__file__).parent
HEADER = ROOT / "bindings" / "cpp"
INCLUDES = [f"-I{path}" for path in (ROOT / "include", HEADER, ROOT / "tests" / "c")]
STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-Wshadow", "-Wconversion", "-pthread", "-g"]
LEAN = ["-fno-exceptions", "-fno-rtti"]
SHARED, STATIC = "shared", "static"


class Build(NamedTuple):
    compiler: str
    flags: tuple[str, ...]
    library: str = SHARED


BUILDS = {
    "gcc-17": Build("g++", ("-std=c++17", "-O2")),
    "clang-20-lean": Build("clang++", ("-std=c++20", "-O2", *LEAN), STATIC),
    "asan-ubsan": Build(
        "g++", ("-std=c++20", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    ),
    "tsan": Build("g++", ("-std=c++17", "-O1", "-fsanitize=thread")),
}
SANITIZED = [name for name in BUILDS if "san" in name]

CASES = {
    "opening",
    "errors",
    "ownership",
    "delivery",
    "logger",
    "uploads",
    "forks",
    "threads",
    "forks_in_the_middle",
    "at_exit",
    "worker",
}

# What the sanitizers cannot know of a library that is not built with them:
SUPPRESSIONS = {
    # by design a child leaves alone what its parent's use of the client had allocated; its own
    # hangs on a page that LeakSanitizer does not search;
    "LSAN_OPTIONS": "leak:libtelemetry.so",
    # the library's atomics, which order the copies and frees that ThreadSanitizer sees in libc.
    "TSAN_OPTIONS": "called_from_lib:libtelemetry.so",
}


def link(directory: Path, library: str) -> list[str]:
    if library == STATIC:
        return [str(LIBRARY.with_suffix(".a")), "-lpthread", "-ldl", "-lm"]
    return [f"-L{directory}", "-ltelemetry", f"-Wl,-rpath,{directory}"]


def compile_cases(directory: Path, name: str) -> Path:
    """client.cpp as `name` says; other.cpp always without exceptions and RTTI."""
    build, program = BUILDS[name], directory / name
    other = directory / f"{name}.o"
    common = [build.compiler, *STRICT, *build.flags, *INCLUDES]
    run(*common, *LEAN, "-c", HERE / "other.cpp", "-o", other)
    run(*common, HERE / "client.cpp", other, "-o", program, *link(directory, build.library))
    return program


def run(*argv: Any, **more: Any) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in argv]
    done = subprocess.run(words, capture_output=True, text=True, timeout=6 * PATIENCE, **more)
    assert done.returncode == 0, f"{' '.join(words)}: {done.returncode}\n{done.stderr[-5000:]}"
    return done


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("cpp")
    for name in ("libtelemetry.so", "libtelemetry.so.0"):
        (made / name).symlink_to(LIBRARY.resolve())
    return made


@pytest.fixture(scope="session")
def compiled(directory: Path) -> Iterator[dict[str, concurrent.futures.Future[Path]]]:
    """The programs, all being compiled at the same time."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(compile_cases, directory, name) for name in BUILDS}


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    with Collector(tmp_path) as running:
        yield running


@pytest.mark.parametrize("name", BUILDS)
def test_everything(
    compiled: dict[str, concurrent.futures.Future[Path]],
    collector: Collector,
    tmp_path: Path,
    name: str,
) -> None:
    if not shutil.which(BUILDS[name].compiler):
        pytest.skip(f"{BUILDS[name].compiler} is not installed")
    program = compiled[name].result()
    sanitized = name in SANITIZED
    env = environment(TEST_ENDPOINT=collector.url)
    if sanitized:
        for variable, text in SUPPRESSIONS.items():
            file = tmp_path / variable
            file.write_text(text + "\n")
            env[variable] = f"suppressions={file}:print_suppressions=0"
        # Forks wait for the sender's end, so let it come soon: quiet_fork.h.
        quiet = ("TEST_QUIET_FORK", "TELEMETRY_IDLE_MS", "TELEMETRY_BATCH_MAX_AGE_MS")
        env |= dict.fromkeys(quiet, "1")
    cases = set(run(program, env=env).stdout.split())
    assert cases == CASES
    if sanitized:
        cases.remove("forks_in_the_middle")  # which is what the sanitizers cannot bear
    accepted = []
    for case in sorted(cases):
        done = run(program, case, env=env)
        lines = [line.split() for line in done.stdout.splitlines()]
        accepted += [(int(pid), int(seq)) for pid, seq in lines]
        if case == "logger":  # the line of the second client, for which stderr was restored
            assert "the queue is full" in done.stderr
            assert "refused" in done.stderr
            assert done.stderr.count("\n") <= 2, done.stderr
        assert "Sanitizer" not in done.stderr
    assert len(accepted) == len(set(accepted)) > 2000
    events = [event for event in collector.events() if event.get("event") == "c++"]
    sums = total(compare(accepted, events))
    assert (sums.lost, sums.duplicates, sums.unknown) == (0, 0, 0)
    assert collector.stats()["duplicates"] == 0
    numbers = [event["worker"] for event in events if "worker" in event]
    assert sorted(numbers) == [7, 7, 8]


def test_the_example(directory: Path, collector: Collector) -> None:
    program = directory / "prefork"
    source = HEADER / "examples" / "prefork.cpp"
    run("g++", "-std=c++17", *STRICT, *INCLUDES, source, "-o", program, *link(directory, SHARED))
    assert run(program, 3, 50, env=environment(collector.url)).stderr == ""
    events = collector.events()
    assert [e["job"] for e in events if e["event"] == "master started"] == [3]
    done = [event for event in events if event["event"] == "job done"]
    assert sorted(event["job"] for event in done) == list(range(50))
    assert {event["worker"] for event in done} <= {1, 2, 3}
    assert len(events) == len({event["id"] for event in events}) == 51
    wrong = subprocess.run(
        [program], env=environment("gopher://x"), capture_output=True, text=True, timeout=PATIENCE
    )
    assert wrong.returncode == 1
    assert "endpoint" in wrong.stderr


def test_the_fleet_of_the_page(directory: Path, collector: Collector) -> None:
    page = (HEADER / "README.md").read_text()
    (text,) = (part for part in re.findall(r"```cpp\n(.*?)```", page, re.S) if "int main" in part)
    port = free_port()
    assert "127.0.0.1:9464" in text
    source, program = directory / "fleet.cpp", directory / "fleet"
    source.write_text(text.replace("127.0.0.1:9464", f"127.0.0.1:{port}"))
    run("g++", "-std=c++17", *STRICT, *INCLUDES, source, "-o", program, *link(directory, SHARED))
    env = environment(collector.url, TELEMETRY_RUNTIME_DIR=str(directory / "run"))
    with Server([str(program)], port, directory / "fleet.log", env) as server:
        server.wait_for("a job of each", lambda: server.get("/status")["totals"]["done"] >= 4)
        server.wait_for("four", lambda: server.get("/livez")["slots"]["ready"] == 4)
        assert server.stop() == 0, server.output()
    assert {event["event"] for event in collector.events()} == {"job done"}
    assert len(collector.events()) >= 4


MISUSE = {
    "ignored flush": "void f(telemetry::client &c) { c.flush(std::chrono::seconds(1)); }",
    "ignored shutdown": "void f(telemetry::client &c) { c.shutdown(std::chrono::seconds(1)); }",
    "ignored open": "void f(std::error_code &e) { telemetry::client::open({}, e); }",
    "ignored release": "void f(telemetry::client &c) { c.release(); }",
    "a copy": "telemetry::client f(telemetry::client &c) { return c; }",
    "a time-out without a unit": "auto f(telemetry::client &c) { return c.flush(1000); }",
    "a logger that may throw": "void f() { telemetry::set_logger([](telemetry_level, "
    "const char *, void *) {}); }",
}
RIGHT = 'void f(telemetry::client &c) { c.enqueue(R"({})"); c.enqueue(std::string("{}")); }'


def test_misuse_does_not_compile(tmp_path: Path) -> None:
    """...with warnings as errors; what is right does, enqueue with its result ignored among it."""

    def compiles(body: str) -> bool:
        argv = ["g++", "-std=c++17", *STRICT, *INCLUDES, "-fsyntax-only", "-x", "c++", "-"]
        source = f'#include "telemetry.hpp"\n{body}\n'
        return subprocess.run(argv, input=source, text=True, capture_output=True).returncode == 0

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert dict(zip(MISUSE, pool.map(compiles, MISUSE.values()), strict=True)) == dict.fromkeys(
            MISUSE, False
        )
    assert compiles(RIGHT)
