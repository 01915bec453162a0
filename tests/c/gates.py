"""What holds a sender where a test wants it: in a request, in connect(), in a name look-up."""

import contextlib
import os
import pathlib
import random
import socket
import struct
import threading

from harness import wait_until


class Gate:
    """Threads of the test's own; each ends with its socket."""

    def __init__(self, pipes):
        self.seen_fd, self.go_fd = pipes["seen"], pipes["go"]
        self.open = threading.Event()
        self.sockets = []

    def seen(self):
        os.write(self.seen_fd, b"s")

    def start(self, target, *args):
        threading.Thread(target=target, args=args, daemon=True).start()

    def wait_for_go(self):
        os.read(self.go_fd, 1)
        self.open.set()

    def close(self):
        self.open.set()
        for one in self.sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def pump(self, source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def join(self, client, port, first=b""):
        server = socket.create_connection(("127.0.0.1", port))
        self.sockets += [client, server]
        server.sendall(first)
        self.start(self.pump, server, client)
        self.pump(client, server)


class HoldRequest(Gate):
    """A way to the collector that keeps its first request until the program says go."""

    def __init__(self, pipes, port):
        super().__init__(pipes)
        self.port = port
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.sockets.append(self.listener)
        self.endpoint = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.start(self.serve)

    def serve(self):
        held = True
        try:
            while True:
                client, _ = self.listener.accept()
                self.start(self.handle, client, held)
                held = False
        except OSError:
            pass

    def handle(self, client, held):
        first = b""
        if held:
            first = client.recv(65536)
            self.seen()
            self.wait_for_go()
        self.join(client, self.port, first)


class HoldConnect(Gate):
    """A listener whose backlog is full, so that connect() hangs, until the program says go."""

    def __init__(self, pipes, port):
        super().__init__(pipes)
        self.port = port
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(0)
        self.sockets.append(self.listener)
        address = self.listener.getsockname()
        self.endpoint = f"http://127.0.0.1:{address[1]}"
        self.sockets.append(socket.create_connection(address))
        # It is there for us before it is there for the kernel's other end.
        wait_until("the backlog is full", lambda: self.full(address[1]))
        self.start(self.serve)

    @staticmethod
    def full(port):
        """Whether a connection waits in the backlog, which has room for one."""
        for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, _, state, queues, *_ = line.split()
            if state == "0A" and int(local.split(":")[1], 16) == port:
                return int(queues.split(":")[1], 16) > 0
        raise AssertionError(f"nobody listens on {port}")

    def serve(self):
        self.wait_for_go()
        try:
            while True:
                client, _ = self.listener.accept()
                self.start(self.join, client, self.port)
        except OSError:
            pass


class HoldLookup(Gate):
    """A name server, on a loopback address of its own, that is silent until the program says go."""

    def __init__(self, pipes, port, directory):
        super().__init__(pipes)
        address = ".".join(["127", *(str(random.randint(2, 250)) for _ in range(3))])
        self.server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.server.bind((address, 53))
        self.sockets.append(self.server)
        self.endpoint = f"http://collector.test:{port}"
        # libc's resolver may share its socket with a fork made meanwhile, so that one takes the
        # other's answer: then it asks again after its own time-out, which is therefore short.
        resolv = directory / "resolv.conf"
        resolv.write_text(f"nameserver {address}\noptions timeout:2 attempts:5\n")
        # A mount namespace in which this is /etc/resolv.conf.
        self.prefix = [
            "unshare",
            "-m",
            "--propagation",
            "private",
            "sh",
            "-c",
            'mount --bind "$0" /etc/resolv.conf && exec "$@"',
            str(resolv),
        ]
        self.start(self.serve)

    def serve(self):
        first = True
        try:
            while True:
                query, client = self.server.recvfrom(2048)
                if not query:
                    return  # shut down
                if first:
                    first = False
                    self.seen()
                    self.start(self.wait_for_go)
                self.start(self.answer, query, client)
        except OSError:
            pass

    def answer(self, query, client):
        self.open.wait()
        end = query.index(b"\0", 12) + 5
        question = query[12:end]
        (kind,) = struct.unpack(">H", question[-4:-2])
        records = (
            b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + bytes([127, 0, 0, 1])
            if kind == 1
            else b""
        )
        reply = (
            query[:2]
            + b"\x81\x80"
            + struct.pack(">HHHH", 1, bool(records), 0, 0)
            + question
            + records
        )
        with contextlib.suppress(OSError):
            self.server.sendto(reply, client)
