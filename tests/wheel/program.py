"""What a user's program does with an installed package: run in a bare environment.

    python program.py http://127.0.0.1:PORT

It reports events by the name of the place that they come from, and prints what it found as JSON.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import logging
import multiprocessing
import os
import pkgutil
import sys

import libtelemetry
import libtelemetry.logging

METHODS = ("fork", "spawn", "forkserver")


def work(client: libtelemetry.Client, method: str) -> None:
    """A job in another process, which has the client by inheritance or by pickle."""
    assert client.enqueue({"from": f"multiprocessing {method}"})


def mapped() -> list[str]:
    """The shared objects of ours in this process."""
    with open("/proc/self/maps") as maps:
        paths = {line.split(maxsplit=5)[-1].strip() for line in maps}
    return sorted(path for path in paths if "libtelemetry" in path)


def import_everything() -> dict[str, str]:
    """Import every module; those that cannot be, and why."""
    failed = {}
    for module in pkgutil.walk_packages(libtelemetry.__path__, "libtelemetry."):
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            failed[module.name] = str(error)
    return failed


def fork_and_report(client: libtelemetry.Client) -> list[str]:
    """Events before the fork, and after it from both; what is mapped in the child."""
    assert client.enqueue({"from": "before the fork"})
    here, there = os.pipe()
    pid = os.fork()
    if pid == 0:
        fine = client.enqueue({"from": "the child"}) and client.flush(60)
        os.write(there, json.dumps(mapped()).encode())
        os._exit(0 if fine else 1)
    os.close(there)
    with os.fdopen(here) as pipe:
        found: list[str] = json.loads(pipe.read())
    assert os.waitpid(pid, 0)[1] == 0
    assert client.enqueue({"from": "the parent"})
    assert client.flush(60)
    return found


if __name__ == "__main__":
    client = libtelemetry.Client(sys.argv[1])
    child = fork_and_report(client)
    for method in METHODS:
        process = multiprocessing.get_context(method).Process(target=work, args=(client, method))
        process.start()
        process.join(120)
        assert process.exitcode == 0, (method, process.exitcode)
    logger = logging.getLogger("shop")
    logger.addHandler(libtelemetry.logging.Handler(client))
    logger.warning("%d left", 3)
    assert client.flush(60)
    client.enqueue({"from": "the end"})  # delivered by the end of the process
    print(
        json.dumps(
            {
                "package": os.path.dirname(libtelemetry.__file__),
                "version": [libtelemetry.__version__, importlib.metadata.version("libtelemetry")],
                "mapped": mapped(),
                "mapped in the child": child,
                "not imported": import_everything(),
            }
        )
    )
