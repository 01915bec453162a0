"""The whole life of a client, without packages: run by every CPython of the machine.

python smoke.py http://127.0.0.1:PORT
"""

from __future__ import annotations

import asyncio
import os
import sys

from libtelemetry import Client, ConfigError

if __name__ == "__main__":
    client = Client(sys.argv[1], batch={"max_events": 50})
    for n in range(100):
        assert client.enqueue({"n": n, "kind": "dict"})
    assert client.enqueue('{"n": 100}')
    assert client.enqueue(b'{"n": 101}')
    assert client.enqueue(bytearray(b'{"n": 102}'))
    assert client.enqueue(b'{"n": 103, "long": "%s"}' % (b"x" * 5000))
    assert client.flush(60)
    assert asyncio.run(client.aflush(60))
    assert client.stats().delivered == 104, client.stats()
    for wrong in (None, 1, ["list"], object()):
        try:
            client.enqueue(wrong)  # type: ignore[arg-type]
        except TypeError:
            continue
        raise AssertionError(wrong)
    pid = os.fork()
    if pid == 0:
        fine = client.stats().accepted == 0 and client.enqueue({"n": 104}) and client.flush(60)
        os._exit(0 if fine else 1)
    assert os.waitpid(pid, 0)[1] == 0
    with Client(sys.argv[1]) as other:
        assert other.enqueue({"n": 105})
    assert other.enqueue({}) is False
    assert issubclass(ConfigError, ValueError)
    client.enqueue({"n": 106})  # delivered at exit
    print("fine")
