"""The same application for ASGI servers.

gunicorn --preload -w 4 -k uvicorn_worker.UvicornWorker asgi:application
uvicorn --workers 4 asgi:application
"""

from __future__ import annotations

import json
from typing import Any, Callable
from urllib.parse import parse_qs

from app import answer, client


async def lifespan(receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    """Start and stop of the server.

    uvicorn ends by raising the signal that stopped it, so that no exit handler runs, Python's or
    C's: flush when it announces its end.
    """
    while True:
        event = (await receive())["type"]
        if event == "lifespan.shutdown":
            await client.aflush()
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return


async def application(
    scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]
) -> None:
    """The ASGI entry point. Reporting an event never blocks, so it is called as it is."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
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
