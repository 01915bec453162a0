"""What `Client.enqueue` does, told as text: the same with the accelerator and without it.

python same.py DIRECTORY

Prints whether it is accelerated, then one line a case: its name, the answer or the exception with
its text, and what was counted; at the end the events that arrived. Nothing after the first line may
depend on time, on addresses or on which of the two is used. Needs no packages.
"""

from __future__ import annotations

import array
import collections
import copy
import gc
import inspect
import json
import os
import pickle
import signal
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any, Callable

from libtelemetry import Client, accelerated


class Text(str):
    def encode(self, *_: Any) -> bytes:
        return b'{"its own": "encode"}'


class Bytes(bytes):
    pass


class OwnBytes(bytes):
    def __bytes__(self) -> bytes:
        return b'{"its own": "__bytes__"}'


class Buffer(bytearray):
    pass


class Dict(dict):
    def items(self) -> Any:
        return [("its own", "items")]


class Liar:
    """Says that it is a dict."""

    @property
    def __class__(self) -> Any:
        return dict

    def items(self) -> Any:
        return [("a", 1)]


class LyingBytes:
    @property
    def __class__(self) -> Any:
        return bytes

    def __bytes__(self) -> bytes:
        return b'{"lying": "bytes"}'


class Wicked:
    """Ends the program, or wants to."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __str__(self) -> str:
        raise self.error("from the value")


class Busy:
    """Enqueues while it is encoded."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def __str__(self) -> str:
        return f"inner: {self.client.enqueue({'inner': True})}"


class Sub(Client):
    """Overrides `enqueue`, and has attributes."""

    def enqueue(self, event: Any) -> bool:
        self.seen = event
        return super().enqueue(event)


class Slotted(Client):
    __slots__ = ("mine",)


class Mixed(dict, collections.abc.Sized):
    pass


def released() -> memoryview:
    view = memoryview(b"{}")
    view.release()
    return view


def cycle() -> dict[str, Any]:
    event: dict[str, Any] = {"cycle": 1}
    event["self"] = event
    return event


def deep() -> dict[str, Any]:
    event: Any = "end"
    for _ in range(500):
        event = {"deep": event}
    return event


EVENTS: dict[str, Callable[[], Any]] = {
    "bytes": lambda: b'{"n":1}',
    "bytes, empty": lambda: b"",
    "bytes with a NUL": lambda: b'{"a":"\\u0000","b":"\0"}',
    "bytes not UTF-8": lambda: b'{"a":"\xff"}',
    "str": lambda: '{"n":2}',
    "str, empty": lambda: "",
    "str, not ASCII": lambda: '{"t":"grüße \U0001f600"}',
    "str with a NUL": lambda: '{"t":"\0"}',
    "str with lone surrogates": lambda: '{"t":"a\ud800b\udfff"}',
    "str, subclass": lambda: Text('{"n":3}'),
    "bytes, subclass": lambda: Bytes(b'{"n":4}'),
    "bytes, subclass with __bytes__": lambda: OwnBytes(b'{"n":5}'),
    "bytearray": lambda: bytearray(b'{"n":6}'),
    "bytearray, empty": lambda: bytearray(),
    "bytearray, subclass": lambda: Buffer(b'{"n":7}'),
    "memoryview": lambda: memoryview(b'..{"n":8}')[2:],
    "memoryview backwards": lambda: memoryview(b'{"n":9}'[::-1])[::-1],
    "memoryview of numbers": lambda: memoryview(array.array("I", [0x7D7B7B7B])),
    "memoryview released": released,
    "dict": lambda: {"n": 10, "t": "grüße", "f": 1.5, "l": [None, True, {"x": "y"}]},
    "dict, empty": dict,
    "dict, ordered": lambda: collections.OrderedDict(n=11),
    "dict, default": lambda: collections.defaultdict(int, n=12),
    "dict, counter": lambda: collections.Counter("aab"),
    "dict, own items": lambda: Dict(n=13),
    "dict, two bases": lambda: Mixed(n=14),
    "dict with odd values": lambda: {"s": {1}, "b": b"\xff", "c": 1j, "p": Path("/x")},
    "dict with a big number": lambda: {"n": 2**80},
    "dict with NaN": lambda: {"n": float("nan")},
    "dict with odd keys": lambda: {1: "a", None: "b", (1, 2): "c"},
    "dict with a surrogate": lambda: {"t": "a\ud800"},
    "dict, cycle": cycle,
    "dict, deep": deep,
    "dict with a value that fails": lambda: {"v": Wicked(RuntimeError)},
    "dict with a value that interrupts": lambda: {"v": Wicked(KeyboardInterrupt)},
    "dict with a value that exits": lambda: {"v": Wicked(SystemExit)},
    "says it is a dict": Liar,
    "says it is bytes": LyingBytes,
    "None": lambda: None,
    "int": lambda: 5,
    "list": lambda: [{}],
    "tuple": lambda: ({},),
    "set": lambda: {1},
    "array": lambda: array.array("b", b"{}"),
    "a class": lambda: dict,
    "2047 bytes": lambda: b'{"a":"%s"}' % (b"x" * 2039),
    "2048 bytes": lambda: b'{"a":"%s"}' % (b"x" * 2040),
    "too large": lambda: b'"%s"' % (b"x" * 300_000),
    "too large, str": lambda: '"{}"'.format("x" * 300_000),
    "too large, dict": lambda: {"x": "x" * 300_000},
}

CALLS: dict[str, Callable[[Any], Any]] = {
    "by name": lambda put: put(event=b'{"by":"name"}'),
    "none": lambda put: put(),
    "two": lambda put: put({}, {}),
    "a wrong name": lambda put: put(evnt={}),
    "both": lambda put: put({}, event={}),
    "one and a wrong name": lambda put: put({}, x=1),
    "names alone": lambda put: put(a=1, b=2),
    "unpacked": lambda put: put(*[{"un": "packed"}]),
    "map": lambda put: list(map(put, [{"m": 1}, b'{"m":2}', '{"m":3}'])),
}


def tell(
    name: str, action: Callable[..., Any], client: Client | None = None, *, of: Any = None
) -> None:
    before = client.stats() if client else None
    try:
        answer = repr(action() if of is None else action(of))
    except BaseException as error:
        answer = f"{type(error).__name__}: {error}"
    if client and before:
        now = client.stats()
        answer += f" taken {now.accepted - before.accepted}"
        answer += f" large {now.dropped_too_large - before.dropped_too_large}"
        answer += f" full {now.dropped_full - before.dropped_full}"
    print(f"{name}: {answer}", flush=True)


def in_child(action: Callable[[], bool]) -> bool:
    # The heap of gcc's AddressSanitizer stays locked in a child for ever if another thread was in
    # it at the fork: such a child is ended, and there is another.
    for _ in range(30):
        pid = os.fork()
        if pid == 0:
            os._exit(0 if action() else 1)
        if "ASAN_OPTIONS" not in os.environ or ends(pid):
            return os.waitpid(pid, 0)[1] == 0
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return False


def ends(pid: int) -> bool:
    """Whether that child ends soon; it is not reaped."""
    end = time.monotonic() + 20
    while not (ended := os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)):
        if time.monotonic() > end:
            break
        time.sleep(0.01)
    return bool(ended)


def forms(client: Client) -> None:
    """What else people do with a client and its method."""
    tell("signature", lambda: list(inspect.signature(client.enqueue).parameters))
    tell("parameters", lambda: list(inspect.signature(Client.enqueue).parameters))
    tell("documentation", lambda: inspect.getdoc(Client.enqueue))
    tell("name", lambda: client.enqueue.__name__)
    tell("self", lambda: client.enqueue.__self__ is client)
    tell("equal", lambda: client.enqueue == client.enqueue)
    tell("callable", lambda: callable(client.enqueue))
    tell("through the class", lambda: Client.enqueue(client, {"n": 20}), client)
    tell("in vars", lambda: "enqueue" in vars(Client))
    tell("an unknown attribute", lambda: setattr(client, "nothing", 1))
    tell("the method replaced", lambda: setattr(client, "enqueue", print))
    tell("slots", lambda: Client.__slots__)
    tell("no dict", lambda: hasattr(client, "__dict__"))
    tell("weak", lambda: weakref.ref(client)() is client)
    tell("copy", lambda: copy.copy(client) is copy.deepcopy(client) is client)
    tell("pickle", lambda: pickle.loads(pickle.dumps(client)) is client)
    again = pickle.loads(pickle.dumps(client.enqueue))
    tell("pickled method", lambda: again({"n": 21}), client)
    tell("deep copy of the method", lambda: copy.deepcopy(client.enqueue)({"n": 22}), client)
    tell("bool", lambda: bool(client))
    tell("hash", lambda: {client: 1}[client])
    tell("keywords of the class", lambda: Client.__new__(Client, 1, a=2) is not None)


def life(directory: str) -> None:
    """Clients that were never opened, that are opened twice, shut down, forked, or collected."""

    def never(make: Callable[[], Any]) -> Any:
        return Client.__new__(Client).enqueue(make())

    for name in ("bytes", "str", "dict", "bytearray", "None"):
        tell(f"never opened, {name}", never, of=EVENTS[name])
    tell("never opened, by name", lambda: Client.__new__(Client).enqueue(event={}))
    tell("never opened, subclass", lambda: Sub.__new__(Sub).enqueue({}))

    sub = Sub(f"file:{directory}/sub")
    tell("subclass", lambda: (sub.enqueue({"n": 30}), sub.seen), sub)
    tell("subclass, wrong", lambda: sub.enqueue(None), sub)
    tell("subclass, pickled", lambda: type(pickle.loads(pickle.dumps(sub))).__name__)
    slotted = Slotted(f"file:{directory}/slotted")
    slotted.mine = 1
    tell("slots of its own", lambda: slotted.enqueue(b'{"n":31}'), slotted)

    tell("opened again", lambda: slotted.__init__(f"file:{directory}/again"))
    tell("after that", lambda: slotted.enqueue({"n": 32}), slotted)
    tell("flushed", lambda: slotted.flush(60))

    client = Client(f"file:{directory}/life")
    tell("in a thread", lambda: in_thread(lambda: client.enqueue({"n": 33})), client)
    tell("in a fork", lambda: in_child(lambda: client.enqueue({"n": 34}) and client.flush(60)))
    tell("reentrant", lambda: client.enqueue({"v": Busy(client)}), client)
    tell("context", lambda: client.__enter__() is client)
    tell("shut down", lambda: client.shutdown(60))
    for name in ("bytes", "str", "dict", "memoryview", "None"):
        tell(
            f"after shutdown, {name}", lambda make: client.enqueue(make()), client, of=EVENTS[name]
        )
    tell("after shutdown, in a fork", lambda: in_child(lambda: client.enqueue({}) is False))

    class Owner:
        def __init__(self) -> None:
            self.client, self.me = Client(f"file:{directory}/owner"), self
            self.client.enqueue({"n": 35})

        def __del__(self) -> None:
            put = self.client.enqueue
            tell("while collected", lambda: [put(e) for e in (b"{}", "{}", {}, bytearray(b"{}"))])

    Owner()
    gc.collect()
    kinds = sys.getrefcount(Client)
    for _ in range(10):
        Client(f"file:{directory}/many").enqueue({"n": 36})
    gc.collect()
    tell("the class is let go", lambda: sys.getrefcount(Client) - kinds)


def in_thread(action: Callable[[], Any]) -> Any:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(action()))
    thread.start()
    thread.join()
    return answers[0]


def block(directory: str) -> None:
    """With on_full="block" a full queue waits, and other threads run meanwhile."""
    small = {"queue_bytes": 131072, "segment_bytes": 65536, "max_event_bytes": 20000}

    def opened(wait_ms: int) -> Client:
        # Nobody listens there, and after the first attempt everything waits for the second.
        return Client(
            "http://127.0.0.1:1",
            on_full="block",
            block_timeout_ms=wait_ms,
            retry={"initial_ms": 600_000, "max_ms": 600_000},
            exit_timeout_ms=0,
            **small,
        )

    event = b'{"t":"%s"}' % (b"x" * 10000)
    ticks, end = [0], threading.Event()

    def tick() -> None:
        while not end.wait(0.005):
            ticks[0] += 1

    thread = threading.Thread(target=tick)
    thread.start()

    def full(wait_ms: int) -> tuple[Client, list[bool]]:
        client = opened(wait_ms)
        taken = [client.enqueue(event)]
        while taken[-1] and len(taken) < 100:
            taken.append(client.enqueue(event))
        return client, taken

    client, taken = full(100)
    tell("blocks, and then not", lambda: (taken[0], taken[-1], client.stats().dropped_full > 0))
    for name, kind in ("bytes", event), ("str", event.decode()), ("view", memoryview(event)):
        # On a busy machine the others may need longer.
        for wait_ms in 100, 2000, 20_000:
            waits = client if wait_ms == 100 else full(wait_ms)[0]
            before = ticks[0]
            answer = waits.enqueue(kind)
            if run := ticks[0] - before >= 5:
                break
        print(f"others run while {name} wait: {answer}, {run}", flush=True)
    end.set()
    thread.join()


def arrived(directory: str) -> None:
    for path in sorted(Path(directory).iterdir()):
        events = [json.loads(line) for line in path.read_text().splitlines()]
        for event in events:
            del event["id"], event["timestamp"]
        # A child's event may overtake its parent's.
        for text in sorted(json.dumps(event, sort_keys=True) for event in events):
            print(path.name, text[:200])


class AtTheEnd:
    """Enqueues when the interpreter is half gone."""

    def __init__(self, client: Client) -> None:
        self.client = client
        # Also what `Client` needs would go before it.
        self.put = client.enqueue

    def __del__(self, write: Any = os.write) -> None:
        taken = [self.put(b'{"end":1}'), self.put('{"end":2}'), self.client.enqueue(b'{"end":3}')]
        write(1, f"at the end: {taken}\n".encode())


def main() -> None:
    directory = sys.argv[1]
    print(accelerated)
    client = Client(f"file:{directory}/events", exit_timeout_ms=60_000)
    for name, event in EVENTS.items():
        tell(name, lambda make: client.enqueue(make()), client, of=event)
    for name, call in CALLS.items():
        tell(f"arguments: {name}", call, client, of=client.enqueue)
    forms(client)
    assert client.flush(60)
    life(directory)
    block(directory)
    arrived(directory)
    global last
    last = AtTheEnd(client)


if __name__ == "__main__":
    main()
