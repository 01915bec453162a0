"""Telemetry from servers that fork.

    from libtelemetry import Client

    client = Client("https://collector.example/v1/events")  # at import, before the fork, is fine
    client.enqueue({"event": "signup", "plan": "pro"})  # never blocks, never raises for delivery

The client is valid in the process that opened it and in every fork of it: no ``post_fork`` hook,
no server flag and no thread that you must start. What this package does is call the shared library
``libtelemetry.so.0``, where queue, delivery and fork protocol live.
"""

from ._accelerator import accelerated
from ._client import Client, set_worker
from ._native import ConfigError, LibraryNotFound, Stats

__version__ = "0.1.0"

__all__ = [
    "Client",
    "ConfigError",
    "LibraryNotFound",
    "Stats",
    "__version__",
    "accelerated",
    "set_worker",
]
