"""The client of uWSGI's telemetry plugin, for the application that uWSGI runs.

    from libtelemetry.uwsgi import client

    client.enqueue({"event": "signup", "plan": "pro"})

The plugin opened it in the master, from uWSGI's own configuration (`bindings/uwsgi/README.md`). It
is the plugin's own client and not a second one: one queue a process, one connection, and the
counters of `client.stats()` are those of the request events, too.

Threads, forks, mules and spoolers: as with any `Client`. Import it anywhere: with or without
``lazy-apps``, in as many applications and interpreters as uWSGI has loaded. ImportError outside
uWSGI, or where uWSGI runs without the plugin.
"""

from __future__ import annotations

import ctypes
import json
import os

from ._client import Client, _exit_ms
from ._native import Native

__all__ = ["client"]


def _plugin() -> Client:
    program = ctypes.CDLL(None)
    try:
        opened, configured = program.telemetry_uwsgi_client, program.telemetry_uwsgi_config
    except AttributeError:
        raise ImportError(_missing()) from None
    opened.restype = ctypes.c_void_p
    configured.restype = ctypes.c_char_p
    handle = opened()
    if not handle:
        raise ImportError(
            "uWSGI's telemetry plugin has not opened its client yet: import libtelemetry.uwsgi in "
            "the application, not before uWSGI loads applications"
        )
    config = configured().decode("utf-8", "replace")
    keys = json.loads(config)
    return Client._wrap(
        # What the plugin was linked with, whatever LIBTELEMETRY_PATH or the package has.
        Native(None),
        handle,
        exit_ms=_exit_ms(keys),
        may_wait=(keys.get("on_full") or os.environ.get("TELEMETRY_ON_FULL")) == "block",
        config=config,
    )


def _missing() -> str:
    try:
        import uwsgi  # there in uWSGI alone  # noqa: F401
    except ImportError:
        where = "libtelemetry.uwsgi works inside uWSGI only; elsewhere"
    else:
        where = (
            "uWSGI runs without the telemetry plugin: add `plugin = telemetry` to its options, or"
        )
    return f"{where} open a client of your own: libtelemetry.Client()"


client = _plugin()
