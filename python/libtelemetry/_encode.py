"""Turn a dict into JSON text. Whatever the dict holds, this raises nothing.

An odd value in an event must not fail the request that reports it, so a value that JSON does not
know becomes text, and the same text with and without orjson.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from typing import Any, Callable

_DEPTH = 100


def _default(value: Any) -> Any:
    """What stands for a value that JSON does not know."""
    try:
        if isinstance(value, Enum):
            return value.value
        if isinstance(value, Mapping):
            return dict(value)
        if isinstance(value, (set, frozenset)):
            return list(value)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return bytes(value).decode("utf-8", "replace")
        isoformat = getattr(value, "isoformat", None)
        return str(isoformat()) if isoformat else str(value)
    except Exception:  # the value's own code failed
        return f"<{type(value).__name__}>"


def _plain(value: Any, depth: int = 0) -> Any:
    """`value` in JSON's own types: the slow way, for what the encoders refuse."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if value - value == 0 else None  # NaN and infinity are not JSON
    if depth >= _DEPTH:
        return "..."  # a cycle, or as good as one
    if isinstance(value, dict):
        return {
            key if isinstance(key, str) else str(_default(key)): _plain(item, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    return _plain(_default(value), depth + 1)


_strict = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_default
).encode


def _utf8(text: str) -> bytes:
    # A lone surrogate has no UTF-8 form; the event matters more than that character.
    return text.encode("utf-8", "replace")


def _encode_slowly(event: dict[Any, Any]) -> bytes:
    try:
        return _utf8(_strict(event))
    except Exception:  # NaN, a cycle, a key that is no string, an item removed meanwhile
        return _utf8(_strict(_plain(event)))


try:
    from orjson import dumps as _orjson_dumps
except ImportError:
    dumps: Callable[..., bytes] | None = None
    encode: Callable[[dict[Any, Any]], bytes] = _encode_slowly
else:
    dumps = _orjson_dumps

    def encode(event: dict[Any, Any]) -> bytes:
        """`event` as compact UTF-8 JSON."""
        try:
            return _orjson_dumps(event, _default)
        except Exception:  # its limits: 64-bit integers, string keys, depth
            return _encode_slowly(event)
