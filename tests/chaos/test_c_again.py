"""The C programs that fork, clone and cancel at the worst moment, once more with a spool."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from programs import DETECTORS
from stage import LONG

KINDS = ["fork", "_Fork", "clone", "clone3"]
LONG_ONLY = [
    ("torture", "fork"),
    ("torture", "clone"),
    ("ids",),
    ("lifecycle", "thousand"),
    ("lifecycle", "many"),
    ("setenv",),
]

# The fallback takes as long again: in the long form, and in test_kill.py.
both = pytest.mark.parametrize("detector", DETECTORS if LONG else DETECTORS[:1])


@pytest.fixture
def again(run: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """again(program, ...): the environment gives it a spool; it must leave nothing there."""
    spool = tmp_path / "spool"

    def go(name: str, *words: str, **more: Any) -> None:
        env = {"TELEMETRY_SPOOL_DIR": str(spool), **more.pop("env", {})}
        run(name, *words, env=env, **more)
        left = [path.name for path in spool.glob("*/*")]
        assert not [name for name in left if not name.endswith(".own")], left

    return go


@both
@pytest.mark.parametrize("where", ["returns", "inside"])
@pytest.mark.parametrize("kind", ["fork", "_Fork", "clone"])
def test_fork_from_a_signal_handler_in_mid_enqueue(
    again: Callable[..., None], kind: str, where: str, detector: str
) -> None:
    """The child returns into a write to the parent's file."""
    again("fork_signal", kind, where, detector=detector)


@both
@pytest.mark.parametrize("kind", KINDS)
def test_fork_while_eight_threads_enqueue(
    again: Callable[..., None], kind: str, detector: str
) -> None:
    """At an instant of the lock's holder's making a segment, too."""
    again("fork_busy", kind, detector=detector)


@both
def test_raw_clone_while_malloc_is_locked(again: Callable[..., None], detector: str) -> None:
    """Nothing of the spool may ask libc for something that allocates."""
    again("raw_malloc", detector=detector, env={"MALLOC_ARENA_MAX": "1"})


@both
@pytest.mark.parametrize("state", ["unused", "flushed", "pending", "sending"])
@pytest.mark.parametrize("kind", KINDS)
def test_fork(again: Callable[..., None], kind: str, state: str, detector: str) -> None:
    """In every state, in every way."""
    again("fork", kind, state, detector=detector)


@both
@pytest.mark.parametrize(
    "kinds", [["fork"] * 4, ["clone"] * 4, ["fork", "clone", "_Fork", "clone3"]]
)
def test_four_deep(again: Callable[..., None], kinds: list[str], detector: str) -> None:
    """Each one has the mappings of all before it."""
    again("grandchildren", *kinds, detector=detector)


@both
@pytest.mark.parametrize("kind", ["fork", "clone"])
@pytest.mark.parametrize("who", ["child", "self"])
def test_close_all_descriptors(
    again: Callable[..., None], who: str, kind: str, detector: str
) -> None:
    """The lock's descriptor is among them."""
    again("close_fds", who, kind, detector=detector)


@both
@pytest.mark.parametrize("door", ["cancel", "longjmp"])
def test_a_thread_leaves_enqueue_by_another_door(
    again: Callable[..., None], door: str, detector: str
) -> None:
    """A hole in a file."""
    again("abandoned", door, detector=detector)


@pytest.mark.parametrize("then", ["raise", "shutdown", "exit"])
def test_no_thread_can_be_created(again: Callable[..., None], then: str) -> None:
    """Whoever enqueues makes the segments then."""
    again("no_threads", then)


if LONG:

    @both
    @pytest.mark.parametrize("words", LONG_ONLY, ids=" ".join)
    def test_the_long_ones(
        again: Callable[..., None], words: tuple[str, ...], detector: str
    ) -> None:
        """Two thousand forks, a thousand clients, sixty-four children."""
        again(*words, detector=detector)
