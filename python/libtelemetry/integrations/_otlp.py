"""OTLP in protobuf, written by hand: one span or one log record in a request of its own.

The SDK's encoder builds a tree of message objects, groups by resource, whose hash is that of its
JSON text, and serializes the tree: 46 us for a span of eight attributes and an event. Here the
bytes are joined as they come, in 11 us, and neither the protobuf package nor orjson is needed. (As
OTLP/JSON through orjson it is 6 us, but three times the bytes, which then must be parsed.) The
result is the same message, which the tests compare with what the SDK's encoder makes.

What does not vary from span to span, resource and scope, is encoded once and kept: a request is
``head + span + tail`` with three lengths in between. Lengths are the only state of the encoding,
hence the order of building: innermost first.

Field numbers are those of opentelemetry-proto 1.x, `collector`, `trace`, `logs` and `common`; they
stand in the tags below as ``number << 3 | wire type`` (0 varint, 1 fixed64, 2 length, 5 fixed32).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from struct import Struct
from typing import Any, Callable

from .._encode import _default as stand_in

# Of lists and mappings in each other, each of which is up to three messages. Receivers refuse a
# request, with all that is in it, that has a hundred messages in each other.
_DEPTH = 16
_MOST_KEYS = 4096
_MOST_HEADS = 1024

_fixed64 = Struct("<Q").pack
_fixed32 = Struct("<I").pack
_double = Struct("<d").pack


def _long_varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


# Nearly every length and small number that occurs.
_VARINTS = tuple(_long_varint(number) for number in range(4096))


def _varint(number: int) -> bytes:
    return _VARINTS[number] if 0 <= number < 4096 else _long_varint(number)


def _field(tag: bytes, data: bytes) -> bytes:
    """A field with a length: text, bytes or a message."""
    return tag + _varint(len(data)) + data


def _utf8(text: str) -> bytes:
    # A lone surrogate has no UTF-8 form; the rest of the text matters more.
    return text.encode("utf-8", "replace")


def _text(tag: bytes, text: str | None) -> bytes:
    return _field(tag, _utf8(text)) if text else b""


def _any_value(value: Any, depth: int = 0) -> bytes:
    """An AnyValue; None is the one that is empty."""
    if isinstance(value, str):
        return _field(b"\x0a", _utf8(value))
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        if -(1 << 63) <= value < 1 << 63:
            return b"\x18" + _varint(value & 0xFFFF_FFFF_FFFF_FFFF)
        return _field(b"\x0a", b"%d" % value)
    if isinstance(value, float):
        return b"\x21" + _double(value)
    if value is None:
        return b""
    if isinstance(value, (bytes, bytearray)):
        return _field(b"\x3a", bytes(value))
    if depth >= _DEPTH:
        return _field(b"\x0a", b"...")  # a cycle, or as good as one
    if isinstance(value, Sequence):
        items = (_field(b"\x0a", _any_value(item, depth + 1)) for item in value)
        return _field(b"\x2a", b"".join(items))
    if isinstance(value, Mapping):
        return _field(b"\x32", _attributes(b"\x0a", value, depth + 1))
    return _any_value(stand_in(value), depth + 1)


# The KeyValue.key fields that have been written. Programs have few keys, and write them often.
_keys: dict[str, bytes] = {}


def _key(key: Any) -> bytes:
    data = _field(b"\x0a", _utf8(str(key)))
    if type(key) is str and len(_keys) < _MOST_KEYS:
        _keys[key] = data
    return data


def _attributes(tag: bytes, attributes: Mapping[str, Any] | None, depth: int = 0) -> bytes:
    """KeyValue messages, each under `tag`."""
    if not attributes:
        return b""
    out = b""
    names, short = _keys, _VARINTS
    for key, value in attributes.items():
        name = names.get(key) or _key(key)
        if type(value) is str:  # most are: without a further call
            data = value.encode("utf-8", "replace")
            data = b"\x0a" + _varint(len(data)) + data
        else:
            data = _any_value(value, depth)
        total = len(name) + 2 + len(data)
        if total < 128:  # then the inner length is one byte as well
            out += tag + short[total] + name + b"\x12" + short[len(data)] + data
        else:
            out += _field(tag, name + _field(b"\x12", data))
    return out


def _trace_id(tag: bytes, number: int) -> bytes:
    return tag + b"\x10" + number.to_bytes(16, "big")


def _span_id(tag: bytes, number: int) -> bytes:
    return tag + b"\x08" + number.to_bytes(8, "big")


def _number(tag: bytes, number: int) -> bytes:
    return tag + _varint(number) if number else b""


def _remote(context: Any) -> int:
    """SpanFlags: whether the parent, or the link, is remote is known; and whether it is."""
    return 0x300 if context is not None and context.is_remote else 0x100


def _event(event: Any) -> bytes:
    out = b"\x09" + _fixed64(event.timestamp) + _text(b"\x12", event.name)
    out += _attributes(b"\x1a", event.attributes)
    return out + _number(b"\x20", event.dropped_attributes)


def _link(link: Any) -> bytes:
    return (
        _trace_id(b"\x0a", link.context.trace_id)
        + _span_id(b"\x12", link.context.span_id)
        + _attributes(b"\x22", link.attributes)
        + _number(b"\x28", link.dropped_attributes)
        + b"\x35"
        + _fixed32(_remote(link.context))
    )


def span(span: Any) -> bytes:
    """A Span message of a ReadableSpan."""
    context, parent, status = span.context, span.parent, span.status
    out: bytes = b"\x0a\x10" + context.trace_id.to_bytes(16, "big")
    out += b"\x12\x08" + context.span_id.to_bytes(8, "big")
    if context.trace_state:
        state = ",".join([f"{key}={value}" for key, value in context.trace_state.items()])
        out += _text(b"\x1a", state)
    if parent is not None:
        out += b"\x22\x08" + parent.span_id.to_bytes(8, "big")
    # The SDK counts kinds from 0, OTLP from 1: its 0 is "unspecified".
    out += _text(b"\x2a", span.name) + b"\x30" + _varint(span.kind.value + 1)
    out += b"\x39" + _fixed64(span.start_time or 0) + b"\x41" + _fixed64(span.end_time or 0)
    out += _attributes(b"\x4a", span.attributes)
    out += _number(b"\x50", span.dropped_attributes)
    for event in span.events:
        out += _field(b"\x5a", _event(event))
    out += _number(b"\x60", span.dropped_events)
    for link in span.links:
        out += _field(b"\x6a", _link(link))
    out += _number(b"\x70", span.dropped_links)
    if status is not None:
        message = _text(b"\x12", status.description) + _number(b"\x18", status.status_code.value)
        out += _field(b"\x7a", message)
    return out + b"\x85\x01" + _fixed32(_remote(parent))


def log(record: Any, dropped: int) -> bytes:
    """A LogRecord message of the API's LogRecord, of which the SDK dropped so many attributes."""
    out = [
        b"\x09" + _fixed64(record.timestamp) if record.timestamp else b"",
        _number(b"\x10", getattr(record.severity_number, "value", 0)),
        _text(b"\x1a", record.severity_text),
        _field(b"\x2a", _any_value(record.body)),
        _attributes(b"\x32", record.attributes),
        _number(b"\x38", dropped),
        b"\x45" + _fixed32(int(record.trace_flags)) if record.trace_flags else b"",
        _trace_id(b"\x4a", record.trace_id) if record.trace_id else b"",
        _span_id(b"\x52", record.span_id) if record.span_id else b"",
        b"\x59" + _fixed64(record.observed_timestamp) if record.observed_timestamp else b"",
        _text(b"\x62", record.event_name),
    ]
    return b"".join(out)


class Requests:
    """Makes Export*ServiceRequest messages of one span or log record each.

    The two kinds of request have the same field numbers down to the record itself.
    """

    def __init__(self) -> None:
        self._heads: dict[tuple[int, Any], tuple[Any, Callable[[bytes], bytes]]] = {}

    def request(self, resource: Any, scope: Any, record: bytes) -> bytes:
        """A request that holds `record`, of that resource and that instrumentation scope."""
        # By identity: hashing a resource costs more than all of the rest. The entry keeps it alive,
        # so that no other can get its address; a fork may have given the provider a new one.
        key = (id(resource), scope)
        found = self._heads.get(key)
        if found is None:
            if len(self._heads) >= _MOST_HEADS:
                self._heads.clear()  # a scope, or a provider, for each request
            found = self._heads[key] = (resource, _wrap(resource, scope))
        return found[1](record)


def _wrap(resource: Any, scope: Any) -> Callable[[bytes], bytes]:
    of_resource = b"" if resource is None else _attributes(b"\x0a", resource.attributes)
    resource_head = _field(b"\x0a", of_resource) + b"\x12"
    resource_tail = _text(b"\x1a", getattr(resource, "schema_url", None))
    if scope is None:
        scope_head, scope_tail = b"\x0a\x00\x12", b""
    else:
        name = _text(b"\x0a", scope.name) + _text(b"\x12", scope.version)
        scope_head = _field(b"\x0a", name + _attributes(b"\x1a", scope.attributes)) + b"\x12"
        scope_tail = _text(b"\x1a", scope.schema_url)

    def wrap(record: bytes) -> bytes:
        inner = scope_head + _varint(len(record)) + record + scope_tail
        outer = resource_head + _varint(len(inner)) + inner + resource_tail
        return b"\x0a" + _varint(len(outer)) + outer

    return wrap
