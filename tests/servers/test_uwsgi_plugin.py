"""uWSGI's telemetry plugin, built by uWSGI's own builder, in uWSGI from PyPI and from Debian."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import pytest

from access_kit import Counted, arrived, assert_all
from harness import (
    BIN,
    EXAMPLES,
    HERE,
    LIBRARY,
    PATIENCE,
    ROOT,
    Collector,
    Program,
    Storm,
    accepts,
    compare,
    environment,
    free_port,
    load,
    total,
)
from truth import Truth, assert_nothing_lost, kill_workers, some_work, wait_arrived

TRACE = "0af7651916cd43dd8448eb211c80319c"
SOURCE = ROOT / "bindings" / "uwsgi"
UWSGI = {
    "pypi": str(BIN / "uwsgi"),
    "debian": str(shutil.which("uwsgi-core", path="/usr/bin")),
}
# Nothing but a flush at the end delivers.
LATE = {"batch": {"max_age_ms": 3_600_000}, "exit_timeout_ms": 60_000}

# Which program, and the lines of its own; PLUGIN is where it loads the plugin.
QUIET = "route = ^/quiet donotlog:"  # uWSGI from PyPI has no routes without PCRE
MODES = {
    "pypi": ("pypi", "processes = 4"),
    "pypi-lazy-threads": ("pypi", "lazy-apps = true\nprocesses = 4\nthreads = 2"),
    "debian": ("debian", f"plugin = python3\nplugin = PLUGIN\nprocesses = 4\n{QUIET}"),
    "debian-python-last": (
        "debian",
        "plugin = PLUGIN\nplugin = python3\nprocesses = 4\nthreads = 2",
    ),
}


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The plugin for each, built in the two ways that there are."""
    built = {}
    for name, program in UWSGI.items():
        if not Path(program).exists():
            pytest.skip(f"{program} is missing: run tests/setup.sh")
        directory = tmp_path_factory.mktemp(name)
        env = {**os.environ, "PYTHON": sys.executable}
        if name == "pypi":
            (directory / "telemetry.pc").write_text(
                f"libdir={LIBRARY.parent}\nName: telemetry\nDescription: x\nVersion: 0\n"
                f"Cflags: -I{ROOT / 'include'}\nLibs: -L${{libdir}} -ltelemetry\n"
            )
            env["PKG_CONFIG_PATH"] = str(directory)
            argv = [program, "--build-plugin", str(SOURCE)]
        else:
            argv = ["make", "-C", str(ROOT), "uwsgi-plugin", f"UWSGI={program}"]
            argv += [f"PLUGIN_DIR={directory}", f"OUT={LIBRARY.parent}"]
        done = subprocess.run(argv, cwd=directory, env=env, capture_output=True, text=True)
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert "warning" not in said, said
        built[name] = directory / "telemetry_plugin.so"
        assert built[name].exists(), said
    return built


Start = Callable[..., Counted]


@pytest.fixture
def start(plugins: dict[str, Path], collector: Collector, tmp_path: Path) -> Start:
    """Starts a server: which uWSGI, lines of its configuration, keys of the client's."""

    def started(which: str, lines: str, **keys: Any) -> Counted:
        port = free_port()
        keys = {"endpoint": collector.url, "context": {"number": "$worker"}, **keys}
        ini = tmp_path / "uwsgi.ini"
        if "PLUGIN" not in lines:
            lines += "\nplugin = PLUGIN"
        lines = lines.replace("PLUGIN", str(plugins[which]))
        ini.write_text(
            f"[uwsgi]\ntelemetry = {json.dumps(keys)}\n"
            f"http-socket = 127.0.0.1:{port}\nmodule = uwsgi_plugin_app:application\n"
            f"need-app = true\nmaster = true\ndisable-logging = true\npythonpath = {HERE}\n"
            f"static-map = /static={EXAMPLES}\nworker-reload-mercy = 60\nsocket-timeout = 60\n"
            f"hook-master-start = unix_signal:3 gracefully_kill_them_all\n{lines}\n"
        )
        # The application must use the plugin's library, and no other.
        env = environment(TRUTH=str(tmp_path / "truth.log"), LIBTELEMETRY_PATH="/nowhere")
        argv = [UWSGI[which], "--ini", str(ini)]
        if which == "pypi":
            argv += ["-H", str(ROOT / ".venv")]
        return Counted(argv, port, tmp_path / "uwsgi.log", env)

    return started


def noted(directory: Path) -> list[tuple[int, int]]:
    """What the application's clients took."""
    return sorted(Truth(directory).noted())


@pytest.mark.parametrize("mode", MODES)
def test_every_request_and_every_event_arrives_once(
    mode: str, start: Start, collector: Collector, tmp_path: Path
) -> None:
    which, lines = MODES[mode]
    with start(which, f"telemetry-requests = true\n{lines}", **LATE) as server:
        load(server, requests=100)
        server.ask("GET", "/missing?token=secret", traceparent=f"00-{TRACE}-{'1' * 16}-01")
        with pytest.raises(http.client.RemoteDisconnected):
            server.ask("POST", "/boom")
        server.answered[500] += 1  # as uWSGI sees it
        server.ask("HEAD", "/static/app.py")
        content = server.ask("GET", "/static/app.py")
        mapped = {Path(name).name: name for name in server.get("/libraries")}
        mapped.pop("_accel.abi3.so", None)
        assert mapped == {LIBRARY.name: str(LIBRARY.resolve())}
        leave(server.port, "/big")
        server.answered[200] += 1
        if QUIET in lines:
            server.ask("GET", "/quiet")
            server.answered[404] -= 1
        server.stop(signal.SIGQUIT)  # gracefully: what has been answered is also reported
    found = assert_all(server, noted(tmp_path), collector)
    routes = {(event["method"], event["route"]): event for event in found.requests}
    missing = routes["GET", "/missing"]
    assert (missing["status"], missing["trace_id"]) == (404, TRACE)
    assert "secret" not in str(missing)
    assert routes["POST", "/boom"]["status"] == 500
    assert content == (EXAMPLES / "app.py").read_bytes()
    assert routes["GET", "/static/app.py"]["bytes"] == len(content)
    assert routes["HEAD", "/static/app.py"]["bytes"] == 0
    assert routes["GET", "/big"]["bytes"] < 20_000_000
    assert [event for event in found.requests if "aborted" in event] == [routes["GET", "/big"]]
    assert all(0 < event["duration_ms"] < 3_600_000 for event in found.requests)
    numbers = found.numbers()
    master = numbers.pop(0, set())
    assert master == (set() if "lazy" in mode else {server.process.pid})
    assert set(numbers) == {1, 2, 3, 4}
    assert all(len(pids) == 1 for pids in numbers.values()), numbers


def leave(port: int, path: str) -> None:
    """Ask, and go away when the answer begins."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        assert connection.recv(12) == b"HTTP/1.1 200"


def test_any_path_makes_an_event(start: Start, collector: Collector) -> None:
    """Whatever bytes it has; and the application's client is the one that they are taken by."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    choice = random.Random(seed)
    # Beginnings of characters, and what may or may not follow them.
    odd = [0xC2, 0xE0, 0xE1, 0xED, 0xEF, 0xF0, 0xF1, 0xF4, 0xF5, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF]
    paths = [bytes(range(1, 128)), bytes(range(128, 256)), "/\U0001f600é\ufffd\ud7ff".encode()]
    paths += [bytes(choice.choices([*odd, 0x22, 0x5C, 0x41], k=60)) for _ in range(40)]
    paths += [b"x" * 12000]
    # A path is what uWSGI makes of it: dots are resolved, and what follows # is cut off.
    paths = [b"/" + path.replace(b"#", b"").replace(b".", b"").replace(b"/", b"") for path in paths]
    with start("pypi", "telemetry-requests = true\nprocesses = 1\nbuffer-size = 32768") as server:
        for path in paths:
            server.ask("GET", quote_from_bytes(path))
        stats = server.get("/stats")
        assert stats["accepted"] >= len(paths)
        collector.wait_unique(5 + len(paths) + 1)
        server.stop(signal.SIGQUIT)
    found = [event["route"] for event in arrived(collector).requests]
    assert found == [path.decode("utf-8", "replace") for path in paths] + ["/stats"]


@pytest.mark.parametrize("spool", [False, True], ids=["memory", "spool"])
def test_a_reload_under_load_loses_nothing(
    spool: bool, start: Start, collector: Collector, tmp_path: Path
) -> None:
    """SIGHUP: the workers end, then the master executes itself. Nothing is left to recover."""
    keys = {"spool_dir": str(tmp_path / "spool")} if spool else {}
    later = tmp_path / "later"
    os.mkfifo(later)
    lines = f"telemetry-requests = true\nprocesses = 4\nenv = LATER={later}"
    with start("pypi", lines, **LATE, **keys) as server:

        def of_master(spawned: str, count: int) -> None:
            """What the master reports after its last fork only its flush before exec delivers."""
            server.wait_for(spawned, lambda: spawned in server.output())
            later.write_text("now")
            pid = server.process.pid
            server.wait_for(
                "the master's events",
                lambda: sum(key[0] == pid for key in noted(tmp_path)) == count,
            )

        load(server, requests=40)  # a worker that is told to end while it starts does not hear it
        of_master("spawned uWSGI worker 4", 10)
        with Storm(server) as storm:
            server.wait_for("some more", lambda: len(noted(tmp_path)) > 500)
            server.process.send_signal(signal.SIGHUP)
            server.wait_for("the reload", lambda: "gracefully (RE)spawned" in server.output())
        load(server, requests=40)
        server.stop(signal.SIGQUIT)
    taken = noted(tmp_path)
    collector.wait_unique(len(taken) + server.answered[200])
    found = arrived(collector)
    sums = total(compare(taken, found.app))
    assert (sums.lost, sums.duplicates, sums.unknown) == (0, 0, 0), sums
    # One that uWSGI broke it may have counted.
    assert len(found.requests) == server.answered[200] or storm.broken
    assert len(found.requests) >= server.answered[200]
    numbers = found.numbers()
    assert numbers.pop(0) == {server.process.pid}
    assert set(numbers) == {1, 2, 3, 4}
    assert all(len(pids) == 2 for pids in numbers.values()), numbers
    assert Truth(tmp_path).files() == []


def test_a_worker_that_does_not_end_has_delivered_before_it_is_killed(
    start: Start, collector: Collector, tmp_path: Path
) -> None:
    """Something registered with atexit keeps the library's own handler from its turn."""
    with start("pypi", "processes = 1\nworker-reload-mercy = 5", **LATE) as server:
        load(server, requests=20, workers=1)
        server.get("/never-end")
        server.get("/emit?n=5")
        taken = noted(tmp_path)
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("the worker is killed", lambda: "NO MERCY" in server.output())
        collector.wait_unique(len(taken))
        server.kill()
    assert len(taken) == 5 + 20 * 5 + 5
    sums = total(compare(taken, arrived(collector).app))
    assert (sums.lost, sums.duplicates) == (0, 0), sums


def test_killed_workers_lose_nothing_with_a_spool(
    start: Start, collector: Collector, tmp_path: Path
) -> None:
    """Killed at random, by harakiri, and told to end with skip-atexit, which runs nothing."""
    truth, batch = Truth(tmp_path), 100
    keys = {"batch": {"max_events": batch, "max_age_ms": 3_600_000}, "spool_dir": str(truth.spool)}
    lines = "processes = 4\nskip-atexit = true\ndie-on-term = true"
    lines += "\nworker-reload-mercy = 2"
    with start("pypi", lines, **keys) as server:
        with Storm(server):
            killed = kill_workers(server, 6, truth, reported=2)
            with pytest.raises(OSError):
                server.get("/hang?n=5")
        harakiri = set(re.findall(r"HARAKIRI ON WORKER \d+ \(pid: (\d+)", server.output()))
        assert harakiri, server.output()
        dead = {key for key in truth.noted() if key[0] in {*killed, *map(int, harakiri)}}
        assert len({pid for pid, _ in dead}) >= 2, "they had something to lose"
        wait_arrived(dead, collector, some_work(server))
        server.stop()
    truth.drain(
        collector.url, TELEMETRY_SPOOL_DIR=str(truth.spool), TELEMETRY_CONTEXT='{"number":0}'
    )
    # Of them, of the four at the end, and of requests that a busy machine took a second for.
    deaths = len(killed) + server.output().count("HARAKIRI ON") + 4 + 2
    assert_nothing_lost(truth, collector, most_duplicates=deaths * batch)
    assert truth.files() == []


BAD = {
    'telemetry = {"endpont": "x"}': 'unknown key "endpont"; the nearest known key is endpoint',
    "telemetry = nonsense": "the configuration is not valid JSON",
    "telemetry-queue-bytes = many": 'queue_bytes is "many"; allowed: an integer from',
    "telemetry-endpoint = ftp://here": 'endpoint is "ftp://here"',
    'telemetry = {"name": "a"}\ntelemetry-name = b': "the configuration has the key name twice",
    "telemetry-batch-max-events = 0": "batch.max_events is 0; allowed: an integer from 1",
}


def test_a_bad_configuration_stops_uwsgi_at_start(plugins: dict[str, Path], tmp_path: Path) -> None:
    common = "http-socket = 127.0.0.1:0\nmaster = true"
    running = {}
    with contextlib.ExitStack() as all_of_them:
        for number, lines in enumerate(BAD):
            which = "pypi" if number % 2 else "debian"
            ini = tmp_path / f"{number}.ini"
            ini.write_text(f"[uwsgi]\nplugin = {plugins[which]}\n{common}\n{lines}\n")
            argv = [UWSGI[which], "--ini", str(ini)]
            program = Program(argv, tmp_path / f"{number}.log", environment())
            running[lines] = all_of_them.enter_context(program)
        for lines, program in running.items():
            assert program.process.wait(PATIENCE) == 1, program.output()
            assert f"\ntelemetry: {BAD[lines]}" in program.output()


OPTIONS = {
    "telemetry": '{"api_key": "k", "compression": "none"}',
    "telemetry-bearer": '7"x"\\',
    "telemetry-context": '{"a": [1, null]}',
    "telemetry-batch-max-events": "12",
    "telemetry-timeout-ms": "25000",
    "telemetry-retry-max-ms": "7000",
    "telemetry-batch-max-age-ms": "50",
    "telemetry-sample-rate": "0.5",
    "telemetry-sample-key": "1",
    "telemetry-disabled": "false",
}
CONFIGURATION = {
    "api_key": "k",
    "compression": "none",
    "bearer": '7"x"\\',
    "context": {"a": [1, None]},
    "batch": {"max_events": 12, "max_age_ms": 50},
    "timeout_ms": 25000,
    "retry": {"max_ms": 7000},
    "sample": {"rate": 0.5, "key": "1"},
    "disabled": False,
}
ASK = """
from libtelemetry.uwsgi import client
print("it is", client._config)
client.enqueue({"event": "from a script"})
"""


def test_options_make_one_configuration(
    plugins: dict[str, Path], collector: Collector, tmp_path: Path
) -> None:
    """Text as text, numbers and objects as they stand, groups together; the rest from outside."""
    script = tmp_path / "ask.py"
    script.write_text(ASK)
    argv = [UWSGI["pypi"], "-H", str(ROOT / ".venv"), "--plugin", str(plugins["pypi"])]
    for option, value in OPTIONS.items():
        argv += [f"--{option}", value]
    argv += ["--pyrun", str(script)]
    env = environment(collector.url)
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=PATIENCE)
    print(done.stdout, done.stderr)
    found = re.search(r"it is (\{.*)", done.stdout + done.stderr)
    assert found
    assert json.loads(found.group(1)) == CONFIGURATION
    assert [event["a"] for event in collector.events()] == [[1, None]]


def test_the_example_runs_as_its_page_says(
    plugins: dict[str, Path], collector: Collector, tmp_path: Path
) -> None:
    page, ini = ((SOURCE / name).read_text() for name in ("README.md", "uwsgi.ini"))
    assert ini.partition("\n")[2] in page
    port = free_port()
    here = {
        "http://127.0.0.1:4318": collector.url,
        "/tmp/telemetry-spool": str(tmp_path / "spool"),
        "127.0.0.1:8000": f"127.0.0.1:{port}",
    }
    for ours, mine in here.items():
        assert ours in ini
        ini = ini.replace(ours, mine)
    (tmp_path / "uwsgi.ini").write_text(ini)
    for path in (SOURCE / "app.py", plugins["debian"]):
        shutil.copy(path, tmp_path)
    argv = [UWSGI["debian"], "--plugin", "python3", "--ini", "uwsgi.ini"]
    with Program(argv, tmp_path / "uwsgi.log", environment(), cwd=tmp_path) as server:
        server.wait_for("it listens", lambda: accepts(port))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/hello", timeout=PATIENCE) as answer:
            assert answer.read() == b"hello\n"
        collector.wait_unique(2)
    visit, request = sorted(collector.events(), key=lambda event: str(event["event"] == "request"))
    assert visit["path"] == request["route"] == "/hello"
    assert visit["server_worker"] == request["server_worker"] == request["worker"]


def test_each_key_of_the_configuration_has_an_option(plugins: dict[str, Path]) -> None:
    table = (ROOT / "README.md").read_text().partition("<!-- keys: generated -->")[2]
    keys = re.findall(r"^\| `([a-z_.]+)` \|", table.partition("\n<!--")[0], re.MULTILINE)
    assert "spool_dir" in keys
    for which, plugin in plugins.items():
        argv = [UWSGI[which], "--plugin", str(plugin), "--help"]
        shown = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        options = dict(re.findall(r"^ +--(telemetry-\S+) .*: the key (\S+)$", shown, re.MULTILINE))
        assert options == {f"telemetry-{re.sub('[._]', '-', key)}": key for key in keys}


def test_the_client_says_where_it_is_not() -> None:
    code = "import libtelemetry.uwsgi"
    env = environment(PYTHONPATH=str(ROOT / "python"))
    alone = subprocess.run(
        [str(BIN / "python"), "-c", code], env=env, capture_output=True, text=True
    )
    assert "ImportError: libtelemetry.uwsgi works inside uWSGI only" in alone.stderr
    argv = [UWSGI["pypi"], "-H", str(ROOT / ".venv"), "--http-socket", "127.0.0.1:0"]
    argv += ["--need-app", "--module", "libtelemetry.uwsgi"]
    without = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert "ImportError: uWSGI runs without the telemetry plugin" in without.stderr


def test_the_builder_says_what_it_misses(tmp_path: Path) -> None:
    env = {**os.environ, "PKG_CONFIG_LIBDIR": str(tmp_path), "PYTHON": sys.executable}
    env.pop("PKG_CONFIG_PATH", None)
    argv = [UWSGI["pypi"], "--build-plugin", str(SOURCE)]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode != 0
    assert "libtelemetry was not found. Install it" in done.stdout + done.stderr
