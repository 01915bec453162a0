"""The accelerator does what the client does without it, on every CPython, and nothing more."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from interpreters import interpreter, interpreters

import libtelemetry
from harness import EXAMPLES, PATIENCE, ROOT, environment
from libtelemetry import Client, _accelerator

PACKAGE = ROOT / "python" / "libtelemetry"
FILE = "_accel.abi3.so"
HERE = Path(__file__).parent

# Those of the machine, which have no packages, and the one of the tests, which has orjson.
PYTHONS = {".".join(map(str, version)): path for version, path in interpreters().items()}
PYTHONS["with orjson"] = sys.executable


def make(file: Path, python: str = sys.executable, **variables: str) -> None:
    more = [f"{name}={value}" for name, value in variables.items()]
    command = ["make", "-s", "accelerator", f"PYTHON={python}", f"ACCEL={file}", *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=5 * PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Makes copies of the package, each with an accelerator of its own; the PYTHONPATH of one."""

    def copy(name: str = "default", python: str = sys.executable, **variables: str) -> str:
        place = base / name
        if not place.exists():
            shutil.copytree(PACKAGE, place / "libtelemetry", ignore=shutil.ignore_patterns("*.so"))
            make(place / "libtelemetry" / FILE, python, **variables)
        return str(place)

    base = tmp_path_factory.mktemp("packages")
    return copy


def start(path: str, *argv: str, cwd: Path = ROOT, **env: str) -> subprocess.Popen[str]:
    """A program that uses the package at `path`."""
    return subprocess.Popen(
        list(argv),
        cwd=cwd,
        env=environment(PYTHONPATH=path, **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process: subprocess.Popen[str]) -> str:
    """What it prints."""
    try:
        out, err = process.communicate(timeout=5 * PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0, (process.returncode, out[-2000:], err)
    return out


def run(path: str, *argv: str, **env: str) -> str:
    return result(start(path, *argv, **env))


@pytest.mark.parametrize("version", PYTHONS)
def test_the_same_in_every_respect(
    version: str, package: Callable[..., str], tmp_path: Path
) -> None:
    """Both run in the mode that checks memory and warns, where files have the same names."""
    argv = [PYTHONS[version], "-X", "dev", str(HERE / "same.py"), "files"]
    both = []
    for mode in "1", "0":
        (tmp_path / mode / "files").mkdir(parents=True)
        env = {"LIBTELEMETRY_ACCELERATOR": mode}
        both.append(start(package(), *argv, cwd=tmp_path / mode, **env))
    fast, slow = (result(process).splitlines() for process in both)
    assert (fast.pop(0), slow.pop(0)) == ("True", "False")
    assert fast == slow
    assert len(fast) > 150
    assert fast[-1] == "at the end: [True, True, True]"
    # Exit came after the last look at the file.
    events = (tmp_path / "1" / "files" / "events").read_text()
    assert [n for n in (1, 2, 3) if f'"end":{n}' in events] == [1, 2, 3]


@pytest.fixture(scope="module")
def asan() -> dict[str, str]:
    """The environment in which a sanitized accelerator can be loaded by a plain CPython."""
    names = "libasan.so", "libubsan.so"
    where = [
        subprocess.run(["cc", f"-print-file-name={name}"], capture_output=True, text=True)
        for name in names
    ]
    found = [done.stdout.strip() for done in where]
    if not all(map(os.path.isabs, found)):
        pytest.skip("the compiler has no sanitizers")
    # CPython itself leaks by design at its end.
    return {
        "LD_PRELOAD": " ".join(found),
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0",
    }


STRESS = """
import gc, os, signal, sys, threading, time
from libtelemetry import Client, accelerated
from same import ends  # gcc's sanitizer may leave a child with a locked heap: another fork, then
assert accelerated
shared = Client("file:/dev/null", queue_bytes=131072, segment_bytes=65536, max_event_bytes=4096)
waits = Client("file:/dev/null", queue_bytes=131072, segment_bytes=65536, max_event_bytes=4096,
               on_full="block", block_timeout_ms=20)
events = [b'{"a":1}', '{"b":2}', {"c": [1, {2, 3}]}, bytearray(b"{}"), memoryview(b'{"d":4}'),
          "\\ud800", b"x" * 3000, {"e": "x" * 5000}, {1: 2}]
calls, made, forked = [0], [0], [0]

end = time.monotonic() + 1.5

def over():
    enough = calls[0] >= 300 and made[0] >= 4 and forked[0] >= 8
    return enough and time.monotonic() >= end

class Cycle:
    def __init__(self):
        self.client, self.me = Client("file:/dev/null"), self
        self.client.enqueue({})
    def __del__(self):
        self.client.enqueue({"late": object()})

def use():
    while not over():
        for client in shared, waits:
            for event in events:
                client.enqueue(event)
                calls[0] += 1
            try:
                client.enqueue(None)
            except TypeError:
                pass

def churn():
    while not over():
        made[0] += 1
        Cycle()
        one = Client("file:/dev/null", on_full="block")
        one.enqueue(b"{}")
        one.__init__("file:/dev/null")
        one.enqueue({"again": 1})
        del one
        gc.collect()

threads = [threading.Thread(target=use) for _ in range(3)] + [threading.Thread(target=churn)]
for thread in threads:
    thread.start()
while not over():
    pid = os.fork()
    if pid == 0:
        os._exit(0 if shared.enqueue({"child": 1}) and waits.enqueue(b"{}") else 1)
    if ends(pid):
        forked[0] += 1
    else:
        os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] in (0, signal.SIGKILL)
    time.sleep(0.05)
for thread in threads:
    thread.join()
"""


def test_under_the_sanitizers(
    package: Callable[..., str], asan: dict[str, str], tmp_path: Path
) -> None:
    flags = "-g -fsanitize=address,undefined -fno-sanitize-recover=all"
    path = package("asan", CFLAGS=flags)
    script = str(HERE / "same.py")
    lines = run(path, sys.executable, script, str(tmp_path), **asan).splitlines()
    assert (lines[0], lines[-1]) == ("True", "at the end: [True, True, True]")
    run(f"{path}{os.pathsep}{HERE}", sys.executable, "-c", STRESS, **asan)


LEAKS = """
import gc, sys, tracemalloc, weakref
from libtelemetry import Client, _client, accelerated
assert accelerated
client = Client("file:/dev/null", queue_bytes=131072, segment_bytes=65536, max_event_bytes=4096)
stand_in, odd = _client._default, object()
class Own(bytes): pass
events = [b'{"a":1}', '{"b":2}', '{"t":"\\xfc"}', "\\ud800", {"c": odd}, {"n": 2**80}, {},
          bytearray(b"{}"), memoryview(b"{}"), Own(b"{}"), b"x" * 5000, None, 5]
watched = [*events, odd, client, Client, True, False, None, _client.dumps, stand_in,
           _client._encode_slowly, TypeError]
constants = {id(True), id(False), id(None)}

def turn(count):
    for _ in range(count):
        for event in events:
            try:
                client.enqueue(event)
            except TypeError:
                pass
            try:
                client.enqueue(event=event)
            except TypeError:
                pass
        try:
            client.enqueue()
        except TypeError:
            pass
        for event in b"{}", {}, None:
            try:
                Client.__new__(Client).enqueue(event)
            except (AttributeError, TypeError):
                pass

turn(200)
gc.collect()
before = [sys.getrefcount(one) for one in watched]
tracemalloc.start()
turn(10)
gc.collect()
memory = tracemalloc.get_traced_memory()[0]
N = 3000
turn(N)
gc.collect()
grown = tracemalloc.get_traced_memory()[0] - memory
for one, count in zip(watched, before):
    # The program itself may keep or drop a few.
    assert abs(sys.getrefcount(one) - count) < 50, (one, count, sys.getrefcount(one))
assert grown < N, grown  # one byte a turn is less than anything that leaks
class Held(Client): pass
Held.one = Held("file:/dev/null")
Held.one.enqueue({})
gone = weakref.ref(Held)
del Held
gc.collect()
assert gone() is None, "a class and its client in a cycle"
kinds = sys.getrefcount(Client)
tracked = len(gc.get_objects())
for _ in range(300):
    Client("file:/dev/null").enqueue({})
gc.collect()
assert abs(sys.getrefcount(Client) - kinds) < 5
assert abs(len(gc.get_objects()) - tracked) < 50
"""


@pytest.mark.parametrize("version", ["3.9", "with orjson"])
def test_nothing_leaks(version: str, package: Callable[..., str]) -> None:
    run(package(), PYTHONS[version], "-c", LEAKS)


DIRECT = """
import ctypes, operator
from libtelemetry import _accel, _native

native = _native.load()
handle = ctypes.c_void_p()
assert native.open(b'{"endpoint":"file:/dev/null"}', ctypes.byref(handle)) == 0

def queue(dumps, encode=operator.itemgetter("text")):
    one = _accel.Queue()
    value, function = ctypes.addressof(handle), native.enqueue_address
    one._attach(handle, value, function, False, dumps, None, encode)
    return one

def fails(error):
    def dumps(*_):
        raise error
    return dumps

def raised(action):
    try:
        return action()
    except BaseException as error:
        return type(error)

# C code that is called with an error set leaves it set, and CPython makes a SystemError of that.
for dumps in None, fails(ValueError), fails(RecursionError), fails(MemoryError):
    assert queue(dumps).enqueue({"text": b"{}"}) is True
assert raised(lambda: queue(fails(KeyboardInterrupt)).enqueue({})) is KeyboardInterrupt
assert raised(lambda: queue(None, fails(KeyError)).enqueue({})) is KeyError
assert raised(lambda: queue(lambda *_: "no bytes").enqueue({})) is TypeError
assert raised(lambda: _accel.Queue().enqueue(b"")) is AttributeError
assert raised(lambda: _accel.Queue()._attach()) is TypeError
for addresses in (0, 1), (1, 0), ("1", 1), (1, None), (2**70, 1):
    wrong = raised(lambda: _accel.Queue()._attach(handle, *addresses, False, None, None, None))
    assert wrong in (ValueError, TypeError, OverflowError), wrong
handle.value, address = None, handle.value
assert queue(None).enqueue(b"{}") is False
native.free(address)
"""


@pytest.mark.parametrize("version", ["3.9", "3.13"])
def test_errors_of_what_it_calls(version: str, package: Callable[..., str]) -> None:
    run(package(), interpreter(version), "-c", DIRECT)


SUBINTERPRETERS = """
import os, sys
try:
    import _interpreters as api
except ImportError:
    import _xxsubinterpreters as api
import libtelemetry
create, config = sys.argv[1:]
INSIDE = '''
import sys
import libtelemetry
assert libtelemetry.accelerated is %r, libtelemetry.accelerated
client = libtelemetry.Client("file:%s")
kinds = [b'{"in":1}', {"in": 2}, '{"in":3}', bytearray(b'{"in":4}')]
assert [client.enqueue(event) for event in kinds] == [True] * 4
assert client.flush(60)
try:
    client.enqueue(None)
except TypeError:
    pass
else:
    raise AssertionError
'''
path = sys.argv[2]
client = libtelemetry.Client("file:" + path)
for _ in range(3):
    one = eval(create)
    failed = api.run_string(one, INSIDE % (True, path))
    assert not failed, failed
    api.destroy(one)
    assert client.enqueue({"out": 1}) and client.enqueue(b"{}") and client.flush(60)
"""


@pytest.mark.parametrize(
    ("version", "create"),
    [
        ("3.9", "api.create(isolated=False)"),
        ("3.11", "api.create(isolated=False)"),
        ("3.12", "api.create(isolated=False)"),
        ("3.13", "api.create('legacy')"),
        ("3.13", "api.create('isolated')"),  # with a GIL of its own; ctypes cannot before 3.13
    ],
)
def test_subinterpreters(
    version: str, create: str, package: Callable[..., str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(package(), interpreter(version), "-c", SUBINTERPRETERS, create, str(out))
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(line["in"] for line in lines if "in" in line) == sorted([1, 2, 3, 4] * 3)


DAEMONS = """
import sys, threading, time
from libtelemetry import Client
client = Client("file:/dev/null", on_full="block", block_timeout_ms=50, exit_timeout_ms=100,
                queue_bytes=131072, segment_bytes=65536, max_event_bytes=4096)
def work():
    while True:
        for event in b"x" * 3000, {"a": "x" * 3000}, "y" * 3000:
            client.enqueue(event)
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
while client.stats().accepted < 100:
    time.sleep(0.001)
"""


@pytest.mark.parametrize("version", ["3.9", "3.13"])
def test_threads_that_enqueue_while_the_interpreter_ends(
    version: str, package: Callable[..., str]
) -> None:
    for _ in range(5):
        run(package(), interpreter(version), "-c", DAEMONS)


TRY = """
import libtelemetry
client = libtelemetry.Client("file:/dev/null")
kinds = [b"{}", "{}", {}, bytearray(b"{}")]
print(libtelemetry.accelerated, [client.enqueue(event) for event in kinds])
"""
WORKS = "[True, True, True, True]\n"


@pytest.mark.parametrize("version", [name for name in PYTHONS if name != "with orjson"])
def test_one_file_serves_all(version: str, package: Callable[..., str]) -> None:
    """Whichever CPython's headers it was made with, the oldest and the newest can use it."""
    path = package(version, PYTHONS[version])
    known = sorted(interpreters())
    for user in {known[0], known[-1]}:
        assert run(path, interpreters()[user], "-c", TRY) == "True " + WORKS


def test_only_symbols_of_the_stable_abi(package: Callable[..., str]) -> None:
    abi3info = pytest.importorskip("abi3info")
    file = f"{package()}/libtelemetry/{FILE}"
    names = subprocess.run(["nm", "-D", file], capture_output=True, text=True, check=True).stdout
    wanted = re.findall(r" U (_?Py\w+)", names)
    assert len(wanted) > 10
    stable = {
        symbol.name
        for table in (abi3info.FUNCTIONS, abi3info.DATAS)
        for symbol, entry in table.items()
        if (entry.added.major, entry.added.minor) <= (3, 9)
    }
    assert set(wanted) <= stable
    assert re.findall(r" [TDBRV] (\w+)", names) == ["PyInit__accel"], "exported"
    assert "telemetry" not in names


def test_hardened_and_linked_to_nothing(package: Callable[..., str]) -> None:
    file = f"{package()}/libtelemetry/{FILE}"
    text = subprocess.run(["readelf", "-dlW", file], capture_output=True, text=True).stdout
    assert set(re.findall(r"NEEDED.*\[(.*)\]", text)) <= {"libc.so.6"}
    assert "GNU_RELRO" in text
    assert re.search(r"FLAGS.*(BIND_NOW|NOW)", text)
    assert re.search(r"GNU_STACK.* RW ", text)
    assert "RPATH" not in text
    assert "RUNPATH" not in text


def test_a_missing_header_is_said(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho {tmp_path}/nowhere\n")
    python.chmod(0o755)
    command = ["make", "-s", "accelerator", f"PYTHON={python}", f"ACCEL={tmp_path}/x.so"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode != 0
    assert f"{tmp_path}/nowhere/Python.h is not there: install python3-dev" in done.stderr
    assert not (tmp_path / "x.so").exists()


@pytest.mark.parametrize("value", ["0", "off", "No", "false"])
def test_switched_off(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBTELEMETRY_ACCELERATOR", value)
    assert _accelerator._find() is None


def test_what_cannot_be_used_is_not(package: Callable[..., str], tmp_path: Path) -> None:
    """No file, one of another platform, one of another version, and a build without a GIL."""
    shutil.copytree(package(), tmp_path, dirs_exist_ok=True)
    run_it = (sys.executable, "-c", TRY)
    assert run(str(tmp_path), *run_it) == "True " + WORKS

    # Free-threaded builds say so in their ABI flags. 3.13t would load the file, and fail.
    free = f"import sys; assert 't' not in sys.abiflags; sys.abiflags += 't'\n{TRY}"
    assert run(str(tmp_path), sys.executable, "-c", free) == "False " + WORKS

    file = tmp_path / "libtelemetry" / FILE
    stale = "import sys, types\nold = sys.modules['libtelemetry._accel'] = types.ModuleType('_')\n"
    stale += f"old.INTERFACE, old.Queue = 0, object\n{TRY}"
    assert run(str(tmp_path), sys.executable, "-c", stale) == "False " + WORKS

    file.write_bytes(b"\x7fELF of something else")
    assert run(str(tmp_path), *run_it) == "False " + WORKS
    file.unlink()
    assert run(str(tmp_path), *run_it) == "False " + WORKS


@pytest.mark.parametrize("mode", ["1", "0"])
def test_the_example(mode: str, package: Callable[..., str]) -> None:
    example = str(EXAMPLES / "accelerator.py")
    out = run(package(), sys.executable, example, LIBTELEMETRY_ACCELERATOR=mode)
    assert out.startswith(f"accelerated: {mode == '1'}\n")
    assert re.findall(r"^(\w+) +\d+ ns", out, re.M) == ["bytes", "str", "dict"]
    assert out.endswith("300000 of 300000 delivered\n")


def test_which_one_is_in_use() -> None:
    """The package of the tree says so truly."""
    in_c = type(Client.enqueue).__name__ == "method_descriptor"
    assert libtelemetry.accelerated is in_c
    if not in_c and os.environ.get("LIBTELEMETRY_ACCELERATOR") != "0":
        assert not (PACKAGE / FILE).exists(), "it is there, and was not used"


def test_the_suite_passes_either_way(package: Callable[..., str]) -> None:
    """What this session did not use, the other tests use now."""
    mode = "0" if libtelemetry.accelerated else "1"
    names = "client", "lifecycle", "wrap", "encode", "interpreters"
    files = [str(HERE / f"test_{name}.py") for name in names]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    # After the directories of pytest.ini, which would come first, there is no other way to name it.
    command += ["-o", f"pythonpath={package()} {ROOT}/python/examples {ROOT}/tests/servers"]
    command += ["-c", str(HERE.parent / "pytest.ini"), "--rootdir", str(HERE.parent)]
    env = dict(os.environ, LIBTELEMETRY_ACCELERATOR=mode)
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=10 * PATIENCE
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
