"""Segment's official SDK, delivered by libtelemetry.

    import segment.analytics as analytics
    import libtelemetry.integrations.segment

    analytics.write_key = "key"
    libtelemetry.integrations.segment.install(analytics)  # at import, before the fork, is right
    analytics.track("user-1", "signup", {"plan": "pro"})

or ``install(client)`` with a ``segment.analytics.client.Client``.

Methods and validation, the 32 KB limit included, are the SDK's. What it would queue goes to one
`libtelemetry.Client`, so that a process may fork at any time by any means, and its consumer threads
are gone. What else changes:

- `flush`, `join` and `shutdown` wait for the client, 10 s at most.
- ``sync_mode``: each call waits until its event is delivered, at most ``timeout``.
- ``upload_size``, ``upload_interval``, ``max_queue_size``, ``max_retries``, the limits of retrying
  and ``thread`` have no meaning; ``batch``, ``queue_bytes`` and ``retry`` are what the client has.
  ``on_error`` is not called: `Client.stats` counts, and ``dead_letter`` keeps what was refused.
- ``gzip=True`` means gzip; without it the client's own setting counts, which is gzip as well.
- OAuth is refused: its token is renewed by requests of the SDK's own.

Works with versions from 2.3 on.
"""

from __future__ import annotations

import atexit
import logging
import threading
from typing import Any

from .._client import Client
from .._native import ConfigError
from ._sdk import NativeQueue, open_client, require, retire

_log = logging.getLogger("segment")

_NAME = "segment-analytics-python"


def install(client: Any, **keys: Any) -> Client:
    """Have what `client` tracks delivered by libtelemetry; the client that does it.

    `client` is a ``segment.analytics.client.Client`` or the module ``segment.analytics``. `keys`
    are keys of `Client` and win over what the SDK's client says: ``spool_dir="/var/spool/app"``,
    ``endpoint=``. Call it right after the client is made; what was tracked by then is handed over.
    A second call returns the same client and ignores `keys`.

    Raises TypeError for anything else, ConfigError for keys that are not accepted, a missing write
    key or OAuth, UnsupportedSDK if this version of the SDK is not built as expected. Then nothing
    is changed.
    """
    sdk = _client_of(client)
    require(_NAME, sdk, "write_key", "host", "gzip", "timeout", "sync_mode", "queue", "_enqueue")
    require(_NAME, sdk, "join", "flush")
    if isinstance(sdk.queue, NativeQueue):
        return sdk.queue.client
    if getattr(sdk, "oauth_manager", None) is not None:
        raise ConfigError("oauth_client_id: OAuth is not supported; use the write key alone")

    host = (sdk.host or "https://api.segment.io").rstrip("/")
    native = open_client(
        {
            "endpoint": host + "/v1/batch",
            "format": "segment",
            "api_key": sdk.write_key,
            "compression": "gzip" if sdk.gzip else None,
            "timeout_ms": int(float(sdk.timeout) * 1000),
            "proxy": (getattr(sdk, "proxies", None) or {}).get(host.partition(":")[0]),
        },
        keys,
    )
    if sdk.on_error is not None:
        _log.warning("libtelemetry: on_error is not called; see Client.stats and dead_letter")

    old = sdk.queue
    new = NativeQueue(native, _log, wait=float(sdk.timeout) if sdk.sync_mode else None)
    atexit.unregister(sdk.join)  # the client has its own, within its own budget
    sdk.queue = new
    sdk.consumers = []
    sdk.join = new.close
    sdk.sync_mode = False  # to the SDK it is a queue again; the wait is what keeps it synchronous
    # Not sdk.consumers: with more threads than one it has only the last.
    threads = [one for one in threading.enumerate() if getattr(one, "queue", None) is old]
    retire(threads, old, new, send="request", batch_size="upload_size")
    return native


def _client_of(client: Any) -> Any:
    from segment import analytics
    from segment.analytics.client import Client as SegmentClient

    if client is analytics:
        if analytics.default_client is None:
            if not analytics.write_key:
                raise ConfigError("api_key: set analytics.write_key before install(analytics)")
            analytics.flush()  # the module's way to make its client; there is nothing to wait for
        return analytics.default_client
    if not isinstance(client, SegmentClient):
        raise TypeError(
            "install() takes a segment.analytics.client.Client or the module segment.analytics, "
            f"not {type(client).__name__}"
        )
    return client
