"""A dict becomes JSON whatever it holds, and the same JSON with and without orjson."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import pathlib
import uuid
from typing import Any

import orjson
import pytest

from libtelemetry import _encode


class Colour(enum.Enum):
    RED = "red"


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Plain:
    def __str__(self) -> str:
        return "plain"


CYCLE: dict[str, Any] = {"a": 1}
CYCLE["self"] = CYCLE
DEEP: Any = "end"
for _ in range(5000):
    DEEP = [DEEP]

ODD = {
    "datetime": (datetime.datetime(2026, 1, 2, 3, 4, 5, 600), "2026-01-02T03:04:05.000600"),
    "date": (datetime.date(2026, 1, 2), "2026-01-02"),
    "uuid": (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "decimal": (decimal.Decimal("1.50"), "1.50"),
    "path": (pathlib.PurePosixPath("/a"), "/a"),
    "enum": (Colour.RED, "red"),
    "tuple": ((1, 2), [1, 2]),
    "set": ({1}, [1]),
    "bytes": (b"ab\xff", "ab\ufffd"),
    "nan": (float("nan"), None),
    "infinity": (float("inf"), None),
    "big": (2**80, 2**80),
    "object": (Plain(), "plain"),
    "hostile": (Hostile(), "<Hostile>"),
    "surrogate": ("a\ud800b", "a?b"),
    "unicode": ("grüße \U0001f600", "grüße \U0001f600"),
}


@pytest.mark.parametrize("encode", [_encode.encode, _encode._encode_slowly])
@pytest.mark.parametrize("name", ODD)
def test_odd_values(name: str, encode: Any) -> None:
    value, expected = ODD[name]
    assert json.loads(encode({"v": value, "n": 1})) == {"v": expected, "n": 1}


@pytest.mark.parametrize("encode", [_encode.encode, _encode._encode_slowly])
def test_odd_shapes(encode: Any) -> None:
    assert json.loads(encode({1: "a", None: {(1, 2): "b"}}))
    assert json.loads(encode(CYCLE))["a"] == 1
    assert json.loads(encode({"deep": DEEP}))
    assert encode({"a": [1, {"b": None}]}) == b'{"a":[1,{"b":null}]}'


def test_the_fast_encoder_is_used() -> None:
    event = {"text": "x", "n": [1.5, True]}
    assert _encode.encode is not _encode._encode_slowly
    assert _encode.encode(event) == orjson.dumps(event) == _encode._encode_slowly(event)
