"""A program that reports events from children of multiprocessing: METHOD KIND on its command line.

The children's last events come right before their end, and they end in os._exit. Prints the events
that were taken, as JSON.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from libtelemetry import Client

client = Client()  # spawn and forkserver import this module again, in the child
numbers = itertools.count()


def emit(count: int) -> list[list[int]]:
    """Report events; those taken."""
    keys = [[os.getpid(), next(numbers)] for _ in range(count)]
    return [key for key in keys if client.enqueue({"pid": key[0], "seq": key[1]})]


def emit_to(count: int, queue: Any) -> None:
    """`emit` for a Process, which has no return value."""
    queue.put(emit(count))


def main(method: str, kind: str) -> list[list[int]]:
    """Run the children; what they and this process reported."""
    context = multiprocessing.get_context(method)
    accepted = emit(5)
    if kind == "pool":
        pool = context.Pool(4)
        for keys in pool.imap_unordered(emit, [5] * 400):
            accepted += keys
        pool.close()  # and not `with`: its terminate() kills the children
        pool.join()
    elif kind == "executor":
        with ProcessPoolExecutor(4, mp_context=context) as executor:
            for keys in executor.map(emit, [5] * 400):
                accepted += keys
    else:
        queue = context.SimpleQueue()
        children = [context.Process(target=emit_to, args=(250, queue)) for _ in range(8)]
        for child in children:
            child.start()
        for _ in children:
            accepted += queue.get()
        for child in children:
            child.join()
            assert child.exitcode == 0
    return accepted + emit(5)


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
