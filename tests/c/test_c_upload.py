"""Uploads: each process delivers its own, once and whole, however it was forked and whenever."""

import collections
import os
import threading

import pytest
from programs import DETECTORS

from media_server import MediaServer

both = pytest.mark.parametrize("detector", DETECTORS)
kinds = pytest.mark.parametrize("kind", ["fork", "_Fork", "clone", "clone3"])
places = pytest.mark.parametrize("place", ["memory", "spool"])


class Held:
    """Holds the first PUT until the program says go."""

    def __init__(self, pipes):
        self.pipes, self.lock, self.first = pipes, threading.Lock(), True

    def __call__(self):
        with self.lock:
            first, self.first = self.first, False
        if first:
            os.write(self.pipes["seen"], b"s")
            os.read(self.pipes["go"], 1)


@pytest.fixture
def upload(run, tmp_path):
    """upload(scenario, ...): runs it, compares what was taken with what the server was asked."""
    spool, noted = tmp_path / "spool", tmp_path / "uploads"

    def go(server, *args, place="memory", env=None, **more):
        variables = {"TEST_UPLOADS": str(noted), **(env or {})}
        if place == "spool":
            variables["TEST_SPOOL"] = str(spool)
        with server:
            run("upload", *args, endpoint=server.endpoint, env=variables, **more)
            taken = collections.Counter(noted.read_text().split())
            assert server.problems == []
            assert server.asked == taken
            assert set(server.put) == set(server.told) == set(taken)
        assert [path.name for path in spool.rglob("*") if path.suffix in (".media", ".bad")] == []
        return server

    return go


@both
@places
@kinds
def test_a_fork_while_uploads_wait(upload, signals_pipes, kind, place, detector):
    more = {"env": signals_pipes["env"], "pass_fds": signals_pipes["pass_fds"]}
    server = MediaServer(Held(signals_pipes))
    upload(server, "waits", kind, place=place, detector=detector, **more)
    assert set(server.put.values()) == {1}


@kinds
def test_a_child_has_nothing_of_64_mib(upload, signals_pipes, kind):
    more = {"env": signals_pipes["env"], "pass_fds": signals_pipes["pass_fds"]}
    upload(MediaServer(Held(signals_pipes)), "memory", kind, **more)


@both
@places
@pytest.mark.parametrize("where", ["returns", "inside"])
@pytest.mark.parametrize("kind", ["_Fork", "clone"])
def test_from_a_signal_handler_in_mid_upload(upload, kind, where, place, detector):
    """Both processes return from the call that was cut, and each has taken that upload.

    Not by fork(3): an upload uses the heap, whose lock libc's fork waits for, in the very thread
    that the handler keeps from giving it back.
    """
    upload(MediaServer(), where, kind, place=place, detector=detector)


@both
@places
def test_raw_clones_while_malloc_is_locked(upload, place, detector):
    env = {"MALLOC_ARENA_MAX": "1"}
    upload(MediaServer(), "raw", place=place, detector=detector, env=env)


@places
def test_the_end_of_a_process_delivers(upload, place):
    upload(MediaServer(), "ends", place=place)


def test_arguments(upload):
    upload(MediaServer(), "arguments")
