"""`Client.upload` against a real HTTP server that checks what it gets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from libtelemetry import Client
from media_server import MediaServer

META = {"contentType": "image/png", "field": "input", "traceId": "t"}
# By sha256sum and base64, of coreutils.
ABC = "ungWv48Bz-pBQUDeXa4iI7"

MakeClient = Callable[..., Client]


@pytest.fixture
def server() -> Iterator[MediaServer]:
    with MediaServer() as running:
        yield running
        assert running.problems == []


@pytest.mark.parametrize(
    "data", [b"abc", bytearray(b"abc"), memoryview(b"xabc")[1:], memoryview(b"cba")[::-1]]
)
def test_every_accepted_type_arrives(
    data: Any, server: MediaServer, make_client: MakeClient
) -> None:
    client = make_client(server.endpoint)
    assert client.upload(META, data) == ABC
    assert client.flush(60)
    assert (server.asked, server.put, server.told) == ({ABC: 1}, {ABC: 1}, {ABC: 1})
    assert server.metas[ABC]["traceId"] == "t"
    stats = client.stats()
    assert (stats.uploads, stats.uploaded, stats.uploads_failed, stats.media_bytes) == (1, 1, 0, 0)


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_file(
    as_path: Callable[[Path], Any], server: MediaServer, make_client: MakeClient, tmp_path: Path
) -> None:
    path = tmp_path / "grüße"
    path.write_bytes(b"abc")
    client = make_client(server.endpoint)
    assert client.upload({**META, "file": as_path(path)}) == ABC
    path.unlink()
    assert client.flush(60)
    assert server.put == {ABC: 1}


@pytest.mark.parametrize(
    "meta, data, text",
    [
        ({}, b"x", "meta.contentType is missing; allowed: a media type such as image/png"),
        ({**META, "field": "x"}, b"x", "allowed: input, output, metadata"),
        ({**META, "more": "x"}, b"x", "meta.more is not known; allowed: contentType"),
        (META, None, "neither data nor meta.file"),
        (META, b"", "the data is empty"),
        ({**META, "file": "/nowhere"}, None, "meta.file is .*No such file"),
        ({**META, "traceId": {1}}, b"x", "traceId"),
    ],
)
def test_what_is_wrong_is_a_value_error_that_says_what_is_allowed(
    meta: Any, data: Any, text: str, server: MediaServer, make_client: MakeClient
) -> None:
    client = make_client(server.endpoint)
    with pytest.raises(ValueError, match=text):
        client.upload(meta, data)
    assert client.stats().uploads == 0


@pytest.mark.parametrize("data", ["text", 5, [1, 2], {"a": 1}])
def test_another_type_is_a_type_error(
    data: Any, server: MediaServer, make_client: MakeClient
) -> None:
    with pytest.raises(TypeError, match="bytes, bytearray, memoryview or None"):
        make_client(server.endpoint).upload(META, data)


def test_another_endpoint_takes_none(client: Client) -> None:
    with pytest.raises(ValueError, match="takes no uploads; allowed: an endpoint of Langfuse"):
        client.upload(META, b"x")


def test_what_is_not_taken_is_an_empty_text(server: MediaServer, make_client: MakeClient) -> None:
    server.refuse = 503
    client = make_client(server.endpoint, media_max_bytes=100_000)
    assert client.upload(META, b"x" * 100_001) == ""
    assert client.upload(META, b"x" * 100_000) != ""
    assert client.upload(META, b"x") == ""
    stats = client.stats()
    assert (stats.dropped_too_large, stats.dropped_full, stats.uploads) == (1, 1, 1)
    assert client.flush(0) is False
    server.refuse = None
    assert client.flush(60)
    assert client.shutdown(60)
    assert client.upload(META, b"x") == ""


def test_aflush_waits_for_uploads(server: MediaServer, make_client: MakeClient) -> None:
    client = make_client(server.endpoint, retry={"initial_ms": 1, "max_ms": 50})
    server.refuse = 503
    client.upload(META, b"abc")
    assert asyncio.run(client.aflush(0.2)) is False
    server.refuse = None
    assert asyncio.run(client.aflush(60)) is True
    assert server.told == {ABC: 1}
