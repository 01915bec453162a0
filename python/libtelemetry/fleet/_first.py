"""The first word: whether the first process that loads a fleet's targets could, and if not, why.

A supervisor imports no worker's code, so that it stays small and outlives what that code does. That
a target cannot be imported at all is for its user to hear as any other mistake in the call, and not
as workers that end one after the other. So the first of them, or the zygote, tells the supervisor
through a pair of sockets that all of them inherit.

What was said is never taken out, only looked at: later processes know by it that the fleet has
begun. What they cannot import, after a reload, say, they write to stderr, and try again.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import traceback

from .._native import ConfigError

# Where it is heard, where it is said.
Pair = tuple[int, int]

_COULD, _COULD_NOT = b"+", b"-"
_MOST = 4096


def pair() -> Pair:
    """Descriptors of a new one."""
    ear, mouth = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return ear.detach(), mouth.detach()


def close(fds: Pair | None) -> None:
    """This process needs it no more."""
    for fd in fds or ():
        with contextlib.suppress(OSError):
            os.close(fd)


def heard(fds: Pair) -> str | None:
    """Why it could not; "" that it could; None if nothing was said yet."""
    with socket.socket(fileno=os.dup(fds[0])) as ear:
        try:
            said = ear.recv(_MOST, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
    return said[1:].decode("utf-8", "replace") if said[:1] == _COULD_NOT else ""


def could(fds: Pair | None) -> None:
    """Say that this process has loaded the targets."""
    if fds is not None and heard(fds) is None:
        _say(fds, _COULD)


def could_not(fds: Pair | None, target: object, error: BaseException) -> None:
    """Say that it could not, and why: to the supervisor, or on stderr if others could before."""
    why = explain(target, error)
    before = "" if fds is None else heard(fds)
    if before:
        return  # its sibling's words
    _show(error)
    if fds is not None and before is None:
        _say(fds, _COULD_NOT + why.encode("utf-8", "replace")[: _MOST - 1])
    else:
        sys.stderr.write(f"libtelemetry.fleet: {why}\n")


def _say(fds: Pair, what: bytes) -> None:
    # Others may have filled it at the same moment: then it is said.
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fds[1])) as mouth:
        mouth.send(what, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def explain(target: object, error: BaseException) -> str:
    """One line that names both."""
    text = " ".join(str(error).split("\n"))
    if isinstance(error, ConfigError):
        return text if not isinstance(target, str) or target in text else f"{target!r}: {text}"
    where = "".join(f" ({frame.filename}, line {frame.lineno})" for frame in _frames(error)[-1:])
    return f"target {target!r} cannot be imported: {type(error).__name__}: {text}{where}"


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Where it was raised, without this package and what imports modules."""
    own = os.path.dirname(os.path.abspath(__file__))
    return [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen importlib")
        and os.path.dirname(frame.filename) not in (own, os.path.dirname(traceback.__file__))
        and not frame.filename.endswith(os.path.join("importlib", "__init__.py"))
    ]


def _show(error: BaseException) -> None:
    """The traceback of the user's own code, if it has a part in it."""
    found = traceback.TracebackException.from_exception(error)
    found.stack = traceback.StackSummary.from_list(_frames(error))
    if found.stack:
        sys.stderr.write("".join(found.format()))
    elif isinstance(error, SyntaxError):
        sys.stderr.write("".join(found.format_exception_only()))
