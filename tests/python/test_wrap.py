"""Clients around a handle that somebody else opened and owns, as a server's plugin does."""

from __future__ import annotations

import copy
import ctypes
import gc
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import libtelemetry
from harness import LIBRARY, PATIENCE, Collector, environment
from libtelemetry import Client, LibraryNotFound, _client, _native
from libtelemetry import logging as telemetry_logging


class Opener:
    """Opens a handle as C would, and knows no Python client."""

    def __init__(self, config: str) -> None:
        self.native = _native.Native(str(LIBRARY))
        room = ctypes.c_void_p()
        assert self.native.open(config.encode(), ctypes.byref(room)) == 0
        assert room.value
        self.handle: int = room.value

    def accepted(self) -> int:
        """What the handle took, asked without a client."""
        room = _native.StatsStruct()
        size = ctypes.sizeof(room)
        assert self.native.stats(ctypes.c_void_p(self.handle), ctypes.byref(room), size) == 0
        return int(room.accepted)


@pytest.fixture
def opener(collector: Collector) -> Iterator[Opener]:
    one = Opener(json.dumps({"endpoint": collector.url}))
    yield one
    one.native.free(one.handle)


def test_every_method_works(opener: Opener, collector: Collector) -> None:
    client = Client._wrap(opener.native, opener.handle)
    for event in ({"n": 0}, '{"n": 1}', b'{"n": 2}'):
        assert client.enqueue(event) is True
    assert client.flush(60) is True
    assert client.stats().delivered == 3
    with pytest.raises(ValueError, match="takes no uploads"):
        client.upload({"field": "input", "traceId": "t"}, b"x")
    assert client.shutdown(60) is True
    assert client.enqueue({"n": 3}) is False
    assert sorted(event["n"] for event in collector.events()) == [0, 1, 2]


def test_the_end_of_the_object_leaves_the_handle_open(opener: Opener) -> None:
    client = Client._wrap(opener.native, opener.handle)
    again = Client._wrap(opener.native, opener.handle)
    assert client.enqueue(b"{}")
    del client
    gc.collect()
    assert _client._live[opener.handle]() is again, "the first one took the second one's place"
    assert again.enqueue(b"{}")
    del again
    gc.collect()
    assert opener.handle not in _client._live
    assert opener.accepted() == 2
    assert Client._wrap(opener.native, opener.handle).enqueue(b"{}"), "it is still open"


def test_it_cannot_be_pickled_and_is_not_found_by_others(
    opener: Opener, collector: Collector
) -> None:
    config = json.dumps({"endpoint": collector.url})
    client = Client._wrap(opener.native, opener.handle, config=config)
    with pytest.raises(TypeError, match="opened cannot be pickled"):
        pickle.dumps(client)
    assert copy.copy(client) is client
    ours = Client(collector.url)
    assert pickle.loads(pickle.dumps(ours)) is ours
    ours.shutdown(60)


def test_repr_and_format(opener: Opener) -> None:
    assert repr(Client._wrap(opener.native, opener.handle)) == "<Client opened by the server>"
    config = '{"endpoint": "http://user:secret@collector:4318", "format": "otlp-logs"}'
    client = Client._wrap(opener.native, opener.handle, config=config)
    assert repr(client) == "<Client collector:4318>"
    assert telemetry_logging.Handler(client)._otlp is True


def test_no_handle() -> None:
    with pytest.raises(ValueError, match="not 0"):
        Client._wrap(_native.load(), 0)


def test_a_fork_uses_it_at_once(opener: Opener, collector: Collector) -> None:
    client = Client._wrap(opener.native, opener.handle)
    assert client.enqueue({"n": 0})
    pid = os.fork()
    if pid == 0:
        fine = client.stats().accepted == 0 and client.enqueue({"n": 1}) and client.flush(60)
        os._exit(0 if fine else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert client.flush(60)
    assert sorted(event["n"] for event in collector.events()) == [0, 1]


# The program that has the library's functions itself, as a server with a static plugin has.
INSIDE = """
import ctypes, json, sys
from libtelemetry import Client, _native
native = _native.Native(None)
room = ctypes.c_void_p()
config = json.dumps({"endpoint": sys.argv[1], "on_full": "block"})
assert native.open(config.encode(), ctypes.byref(room)) == 0
client = Client._wrap(native, room.value, may_wait=True)
assert client._put is native.enqueue_waiting
assert client.enqueue({"n": 1})
print(native.path)
"""


def test_the_functions_of_the_program_itself(collector: Collector) -> None:
    env = environment(LD_PRELOAD=str(LIBRARY))
    command = [sys.executable, "-c", INSIDE, collector.url]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "this program\n", "")
    assert [event["n"] for event in collector.events()] == [1], "flushed when the interpreter ended"
    with pytest.raises(LibraryNotFound, match="this program: not libtelemetry"):
        _native.Native(None)


@pytest.mark.parametrize("number", [-1, 65536, 2**32])
def test_a_worker_number_that_does_not_fit(number: int) -> None:
    with pytest.raises(ValueError, match=f"{number}: 0 to 65535 are"):
        libtelemetry.set_worker(number)


@pytest.mark.parametrize("number", ["1", 1.0, None])
def test_a_worker_number_that_is_none(number: Any) -> None:
    with pytest.raises(TypeError):
        libtelemetry.set_worker(number)


def test_the_worker_number_reaches_the_events(collector: Collector) -> None:
    libtelemetry.set_worker(7)
    try:
        with Client(collector.url, context={"worker": "$worker"}) as client:
            assert client.enqueue({"n": 1})
    finally:
        libtelemetry.set_worker(0)
    (event,) = collector.events()
    assert event["worker"] == 7
