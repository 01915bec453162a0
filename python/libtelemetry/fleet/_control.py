"""A manager's supervisor: a program of its own, which takes requests from a socket in its loop.

Invariants:
- It ends when its manager does: the socket says so, however that came to be.
- A request is one datagram, answered by one: {} or {"error": text}. None waits for a worker.
- It imports no worker's module: what workers run stays packed until it is theirs.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
import traceback
from typing import Any

from ._fleet import Fleet

# What one request may be.
MOST = 1 << 20


def run(fd: int) -> int:
    """Serve the manager at the other end of that socket until it, or the fleet, ends."""
    # Sockets are not inherited by what this starts.
    channel = socket.socket(fileno=fd)
    channel.set_inheritable(False)
    first: dict[str, Any] = pickle.loads(channel.recv(MOST))
    sys.path[:] = first["path"]
    try:
        fleet = Fleet(**first["keys"])
        # A fleet without workers waits for requests; what it is asked comes in its loop.
        fleet.watch(channel.fileno(), lambda _fd: _serve(fleet, channel))
        socket.send_fds(channel, [pickle.dumps({})], [fleet._board])
    except Exception as error:
        channel.send(pickle.dumps({"error": str(error)}))
        return 64
    return fleet.run()


def _serve(fleet: Fleet, channel: socket.socket) -> None:
    try:
        data, memory, _, _ = socket.recv_fds(channel, MOST, 1, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return
    except OSError:
        data = b""
    if not data:
        fleet.watch(channel.fileno(), None)
        fleet.stop_all()
        return
    answer: dict[str, Any] = {}
    try:
        request = pickle.loads(data)
        kind = request.pop("do")
        if kind == "start":
            fleet._start_packed(memory=memory[0], **request)
        elif kind == "stop":
            fleet.stop_process(**request)
        else:
            fleet.stop_all(**request)
    except Exception as error:  # whatever it is, the manager is told and the workers live on
        if not isinstance(error, ValueError):
            traceback.print_exc()
        answer["error"] = str(error) or repr(error)
    try:
        channel.send(pickle.dumps(answer), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:
        os.write(2, b"libtelemetry.fleet: the manager does not read its answers\n")
