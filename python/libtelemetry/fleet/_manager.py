"""Worker processes beside whatever else a program does.

Invariants:
- The supervisor is a program of its own, started with the first worker: no thread, no signal
  handler and no fork in the manager's process, which may have as many threads as it likes.
- What `get_status` says is read from the supervisor's shared memory, which the manager holds open:
  nothing is queued, nothing dropped, and nothing lost when a process, the supervisor included,
  dies.
- The supervisor ends with the manager's process, however that ends; a forked child of the manager
  has neither the manager nor a hold on it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from types import TracebackType
from typing import Any

from .._native import ConfigError
from . import _fleet, _target, _trace
from ._api import api
from ._control import MOST
from ._status import summary

# How long the supervisor itself may take: as long as a worker's start may.
_ANSWER_S = 60.0
# From the end of the time that workers have to the supervisor's own end.
_SLACK_S = 4.0

_managers: weakref.WeakSet[ProcessManager] = weakref.WeakSet()


class _Supervisor:
    """The program, the socket to it, and its scoreboard."""

    def __init__(self, keys: dict[str, Any]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_ANSWER_S)
        self.channel = ours
        self.board = -1
        # Whether nobody need be told any more that it ended.
        self.may_end = False
        with theirs:
            fd = theirs.fileno()
            # A session of its own: a terminal's Ctrl-C is the manager's.
            self.process = subprocess.Popen(
                _fleet.program("--manager", str(fd), str(keys.get("name", "manager"))),
                stdin=subprocess.DEVNULL,
                pass_fds=(fd,),
                start_new_session=True,
            )
        try:
            ours.send(pickle.dumps({"path": sys.path, "keys": keys}))
            try:
                answer, boards, _, _ = socket.recv_fds(ours, MOST, 1)
            except socket.timeout:
                raise TimeoutError(
                    f"the manager's supervisor (process {self.process.pid}) has not begun within "
                    f"{_ANSWER_S:g} s"
                ) from None
            told = pickle.loads(answer) if answer else {"error": "its supervisor did not start"}
            if "error" in told:
                raise ConfigError(told["error"])
            self.board = boards[0]
            os.set_inheritable(self.board, False)
        except BaseException:
            self.close()
            self.process.kill()
            self.process.wait()
            raise

    def ask(self, request: dict[str, Any], memory: int | None = None) -> None:
        """Raises ConfigError for what it refuses, OSError if it is gone."""
        socket.send_fds(self.channel, [pickle.dumps(request)], [] if memory is None else [memory])
        try:
            answer = self.channel.recv(MOST)
        except socket.timeout:
            raise TimeoutError(
                f"the manager's supervisor (process {self.process.pid}) did not answer within "
                f"{_ANSWER_S:g} s"
            ) from None
        if not answer:
            raise BrokenPipeError("the supervisor is gone")
        error = pickle.loads(answer).get("error")
        if error is not None:
            raise ConfigError(error)

    def runs(self) -> bool:
        return self.process.poll() is None

    def document(self) -> Any:
        return api().read(f"/proc/self/fd/{self.board}")

    def close(self) -> None:
        """Let go; the supervisor ends if it runs still."""
        self.channel.close()
        board, self.board = self.board, -1
        if board >= 0:
            os.close(board)


class ProcessManager:
    """Starts, watches and stops worker processes, one a name; restarts those that die.

    Keywords are those of `Fleet` (name, health, grace, stale, ...). Workers run in programs of
    their own, so their classes are found by name: what a module, or the main program below its ``if
    __name__ == "__main__":``, defines. Any thread may call the methods.

        with ProcessManager(health="127.0.0.1:9464") as manager:
            manager.start_worker("decoder", Decoder, queue="jobs")
            ...
            manager.get_status("decoder")["processed"]

    Workers end with the block, with the interpreter, and with the process, even when it is killed.
    """

    def __init__(
        self, name: str = "manager", *, auto_instrument: bool = False, **keys: Any
    ) -> None:
        _fleet.check_place("a ProcessManager", auto_instrument)
        keys["name"] = name
        # Refused here, not at the first worker.
        with _fleet.Fleet(mode="exec", **keys):
            pass
        self._keys = {**keys, "mode": "exec"}
        self._auto_instrument = auto_instrument
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._supervisor: _Supervisor | None = None
        # The name that the supervisor knows a worker by: another one for each start.
        self._names: dict[str, str] = {}
        self._starts: dict[str, int] = {}
        # What workers of supervisors before came to.
        self._past: dict[str, dict[str, Any]] = {}
        _managers.add(self)
        _install()

    def start_worker(self, name: str, worker_class: _fleet.Target, /, **kwargs: Any) -> None:
        """Start ``worker_class(**kwargs).start()`` in a process of its own, and keep it running.

        It may be any target of `Fleet.start_worker`. It works under the trace context that is
        current here. Returns when its process is there. Raises ConfigError, also for a name that
        runs already.
        """
        with self._here():
            if name in self._names and not self._has_ended(name):
                raise ConfigError(f"worker {name!r} runs already; stop_process({name!r}) stops it")
            if isinstance(worker_class, str):
                _target.check_string(worker_class)
            group = _fleet._Group(name, worker_class, 1, kwargs, dict(_trace.capture(name)))
            spec, limits = _fleet.plan(
                group, _fleet._json_keys(self._keys), self._auto_instrument, "exec"
            )
            memory = _target.pack(spec)
            try:
                supervisor = self._supervised()
                if supervisor is None:
                    self._bury()
                    supervisor = self._supervisor = _Supervisor(self._keys)
                self._starts[name] = self._starts.get(name, 0) + 1
                again = f":{self._starts[name]}" if self._starts[name] > 1 else ""
                request = {"do": "start", "name": name + again, "limits": limits}
                supervisor.ask(request, memory)
            finally:
                os.close(memory)
            self._names[name] = name + again
            self._past.pop(name, None)
            _wait(lambda: self._is_there(name), _ANSWER_S)

    def stop_process(self, name: str, timeout: float | None = None) -> bool:
        """Stop that worker within `timeout` seconds (None: grace), by force then; whether it has
        ended.

        One that has ended already stays so. Raises KeyError for a name that was never started.
        """
        with self._here():
            self._known(name)
            timeout = self._grace() if timeout is None else timeout
            supervisor = self._supervisor
            if name in self._past or supervisor is None:
                return True
            if not self._supervised():
                return self._end_orphans(timeout)
            supervisor.ask({"do": "stop", "name": self._names[name], "timeout": timeout})
            pids = self._status(name)["pids"]
        # Others may ask meanwhile.
        _await_ends(pids, timeout + _SLACK_S)
        return _wait(lambda: not self.get_status(name)["alive"], 2.0)

    def stop_all(self, timeout: float | None = None) -> bool:
        """Stop all at once, all within `timeout` seconds (None: grace), and the supervisor; whether
        all have ended.
        """
        with self._here():
            timeout = self._grace() if timeout is None else timeout
            supervisor = self._supervisor
            if supervisor is None:
                return True
            try:
                if self._supervised():
                    supervisor.may_end = True
                    with contextlib.suppress(OSError):
                        supervisor.ask({"do": "stop_all", "timeout": timeout})
                    supervisor.process.wait(timeout + _SLACK_S)
            except subprocess.TimeoutExpired:
                supervisor.process.kill()
                supervisor.process.wait()
            ended = self._end_orphans(timeout)
            self._bury()
            return ended

    def get_status(self, name: str | None = None) -> dict[str, Any]:
        """Of that worker, also after its end: alive, pid, processed, errors, decoding_errors,
        published, processing_errors, mdq_connected, mdc_connected, restarts, running. Without a
        name: of all, by name.

        Raises KeyError for a name that was never started.
        """
        with self._here():
            if name is None:
                return {one: self._status(one) for one in self._names}
            self._known(name)
            return self._status(name)

    def __enter__(self) -> ProcessManager:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop_all()

    def _here(self) -> threading.RLock:
        if os.getpid() != self._pid:
            raise RuntimeError("a ProcessManager belongs to the process that made it")
        return self._lock

    def _known(self, name: str) -> None:
        if name not in self._names:
            names = ", ".join(self._names) or "none"
            raise KeyError(f"no worker is named {name!r}; there are: {names}")

    def _status(self, name: str) -> dict[str, Any]:
        if name in self._past:
            return dict(self._past[name])
        if self._supervisor is None:
            return summary({}, self._names[name])
        document = self._supervisor.document()
        for one in () if self._supervised() else document.get("workers", ()):
            # Nobody writes any more which of them live.
            if one["pid"] is None or not _leads(one["pid"]):
                one.update(pid=None, state="empty")
        found = summary(document, self._names[name])
        found["running"] = found["running"] and found["alive"]
        return found

    def _supervised(self) -> _Supervisor | None:
        """The supervisor, if it runs; that it died is said once, by whoever comes to know it."""
        if self._supervisor is None or self._supervisor.runs():
            return self._supervisor
        if not self._supervisor.may_end:
            self._supervisor.may_end = True
            code = self._supervisor.process.returncode
            lost = [name for name in self._names if name not in self._past]
            # Only now that there is something to say.
            import logging

            logging.getLogger("libtelemetry.fleet").error(
                "the supervisor of %r ended by itself (%s): nothing restarts its workers any more, "
                "and they end: %s. start_worker starts them again",
                self._keys["name"],
                f"signal {-code}" if code < 0 else f"status {code}",
                ", ".join(lost) or "none",
            )
        return None

    def _grace(self) -> float:
        return _fleet._number(_fleet._json_keys(self._keys), "grace_ms") / 1000

    def _is_there(self, name: str) -> bool:
        """Whether its process has begun, or could not."""
        found = self._status(name)
        return found["alive"] or (bool(found["states"]) and "starting" not in found["states"])

    def _has_ended(self, name: str) -> bool:
        """Whether nothing is there any more, and nothing will be."""
        if name in self._past or not self._supervised():
            return True
        return not self._status(name)["states"]

    def _end_orphans(self, timeout: float) -> bool:
        """Workers of a supervisor that is gone end by themselves; those that do not are ended."""
        pids = [pid for name in self._names for pid in self._status(name)["pids"]]
        if not _await_ends(pids, timeout):
            for pid in filter(_leads, pids):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
            return _await_ends(pids, _SLACK_S)
        return True

    def _bury(self) -> None:
        """Keep what the supervisor that has ended had to say."""
        if self._supervisor is None:
            return
        for name in self._names:
            self._past.setdefault(name, self._status(name))
        supervisor, self._supervisor = self._supervisor, None
        supervisor.close()

    def _forget(self) -> None:
        """In a forked child: neither hold the supervisor, nor be taken for its manager."""
        if self._supervisor is not None:
            self._supervisor.close()
            self._supervisor = None


def _leads(pid: int) -> bool:
    """Whether that process runs and leads a group, as every worker does."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] not in "ZX" and int(fields[2]) == pid


def _await_ends(pids: list[int], seconds: float) -> bool:
    """Whether all of them end in that time."""
    end = time.monotonic() + seconds
    open_fds: list[int] = []
    try:
        for pid in pids:
            with contextlib.suppress(OSError):  # it is gone
                open_fds.append(os.pidfd_open(pid))
        waiting = select.poll()
        for fd in open_fds:
            waiting.register(fd, select.POLLIN)
        left = len(open_fds)
        while left:
            ready = waiting.poll(max(0.0, end - time.monotonic()) * 1000)
            if not ready:
                return False
            for fd, _ in ready:
                waiting.unregister(fd)
                left -= 1
        return True
    finally:
        for fd in open_fds:
            os.close(fd)


def _wait(what: Any, seconds: float) -> bool:
    """Whether the supervisor, which is at it, has written something within that time."""
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


_installed = False


def _install() -> None:
    global _installed
    if _installed:
        return
    _installed = True
    atexit.register(_stop_all)
    os.register_at_fork(after_in_child=_forget_all)


def _stop_all() -> None:
    for manager in list(_managers):
        if manager._pid == os.getpid():
            manager.stop_all()


def _forget_all() -> None:
    for manager in list(_managers):
        manager._forget()
