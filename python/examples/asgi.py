"""The same application for ASGI servers.

gunicorn --preload -w 4 -k uvicorn_worker.UvicornWorker asgi:application
uvicorn --workers 4 asgi:application
"""

from __future__ import annotations

import json
from typing import Any, Callable
from urllib.parse import parse_qs

from app import answer, client


async def application(
    scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]
) -> None:
    """The ASGI entry point. Reporting an event never blocks, so it is called as it is."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])  # how ASGI says: no lifespan events, please
    path, query = scope["path"], scope["query_string"].decode()
    result: Any
    if path == "/flush":
        timeout = float(parse_qs(query).get("timeout", ["5"])[-1])
        result = await client.aflush(timeout)  # waits, so it must let other tasks run
    else:
        result = answer(path, query)
    body = json.dumps(result).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    status = 404 if result is None else 200
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
