//! The messages of OTLP, as far as logs and traces have them: the one table behind reading OTLP/JSON and writing
//! either encoding.
//!
//! Invariant: names and numbers are those of opentelemetry-proto 1.x; what is not here is an unknown field, which a
//! receiver ignores and we leave out.

/// One field of a message.
pub struct Field {
    /// Its only valid key in JSON.
    pub name: &'static str,
    /// Its number in protobuf.
    pub number: u32,
    /// What it holds.
    pub kind: Kind,
}

/// What a field holds, and so how it stands in JSON and in protobuf.
#[derive(Clone, Copy)]
pub enum Kind {
    /// A string or an integer in JSON.
    Fixed64,
    /// An integer.
    Fixed32,
    /// An integer.
    Uint32,
    /// An integer with a sign, never a name.
    Enum,
    /// A string or an integer in JSON.
    Int64,
    /// A boolean.
    Bool,
    /// A number, or one of `"NaN"`, `"Infinity"`, `"-Infinity"`.
    Double,
    /// A string.
    Text,
    /// The string that is an attribute's name.
    Key,
    /// So many bytes or none; hexadecimal in JSON.
    Id(usize),
    /// Base64 in JSON.
    Bytes,
    /// A list of strings.
    Texts,
    /// A message.
    One(&'static Message),
    /// A list of messages.
    Many(&'static Message),
}

/// A message.
pub struct Message {
    /// All its fields.
    pub fields: &'static [&'static Field],
    /// At most one of its fields may be there.
    pub oneof: bool,
    /// It is a log record or a span, which is what a request is about.
    pub record: bool,
}

impl Message {
    /// The field of that name, by its place.
    pub fn find(&self, name: &str) -> Option<(usize, &'static Field)> {
        self.fields.iter().enumerate().find(|(_, f)| f.name == name).map(|(i, f)| (i, *f))
    }
}

const fn field(name: &'static str, number: u32, kind: Kind) -> Field {
    Field { name, number, kind }
}

const fn message(fields: &'static [&'static Field]) -> Message {
    Message { fields, oneof: false, record: false }
}

// common.proto
pub static STRING_VALUE: Field = field("stringValue", 1, Kind::Text);
pub static BOOL_VALUE: Field = field("boolValue", 2, Kind::Bool);
pub static INT_VALUE: Field = field("intValue", 3, Kind::Int64);
pub static DOUBLE_VALUE: Field = field("doubleValue", 4, Kind::Double);
pub static ARRAY_VALUE: Field = field("arrayValue", 5, Kind::One(&ARRAY));
pub static KVLIST_VALUE: Field = field("kvlistValue", 6, Kind::One(&KVLIST));
pub static BYTES_VALUE: Field = field("bytesValue", 7, Kind::Bytes);
// This one and its like of a key are there for profiles.
static STRING_INDEX: Field = field("stringValueStrindex", 8, Kind::Enum);
pub static ANY_VALUE: Message = Message {
    fields: &[
        &STRING_VALUE,
        &BOOL_VALUE,
        &INT_VALUE,
        &DOUBLE_VALUE,
        &ARRAY_VALUE,
        &KVLIST_VALUE,
        &BYTES_VALUE,
        &STRING_INDEX,
    ],
    oneof: true,
    record: false,
};
pub static ARRAY_VALUES: Field = field("values", 1, Kind::Many(&ANY_VALUE));
static ARRAY: Message = message(&[&ARRAY_VALUES]);
pub static KVLIST_VALUES: Field = field("values", 1, Kind::Many(&KEY_VALUE));
static KVLIST: Message = message(&[&KVLIST_VALUES]);
pub static KEY: Field = field("key", 1, Kind::Key);
pub static VALUE: Field = field("value", 2, Kind::One(&ANY_VALUE));
static KEY_INDEX: Field = field("keyStrindex", 3, Kind::Enum);
pub static KEY_VALUE: Message = message(&[&KEY, &VALUE, &KEY_INDEX]);

pub static SCOPE_NAME: Field = field("name", 1, Kind::Text);
pub static SCOPE_VERSION: Field = field("version", 2, Kind::Text);
static SCOPE_ATTRIBUTES: Field = field("attributes", 3, Kind::Many(&KEY_VALUE));
static SCOPE_DROPPED: Field = field("droppedAttributesCount", 4, Kind::Uint32);
static SCOPE_MESSAGE: Message = message(&[&SCOPE_NAME, &SCOPE_VERSION, &SCOPE_ATTRIBUTES, &SCOPE_DROPPED]);

static ENTITY_SCHEMA: Field = field("schemaUrl", 1, Kind::Text);
static ENTITY_TYPE: Field = field("type", 2, Kind::Text);
static ENTITY_ID_KEYS: Field = field("idKeys", 3, Kind::Texts);
static ENTITY_DESCRIPTION_KEYS: Field = field("descriptionKeys", 4, Kind::Texts);
static ENTITY_REF: Message =
    message(&[&ENTITY_SCHEMA, &ENTITY_TYPE, &ENTITY_ID_KEYS, &ENTITY_DESCRIPTION_KEYS]);

// resource.proto
pub static RESOURCE_ATTRIBUTES: Field = field("attributes", 1, Kind::Many(&KEY_VALUE));
static RESOURCE_DROPPED: Field = field("droppedAttributesCount", 2, Kind::Uint32);
static RESOURCE_ENTITIES: Field = field("entityRefs", 3, Kind::Many(&ENTITY_REF));
static RESOURCE_MESSAGE: Message = message(&[&RESOURCE_ATTRIBUTES, &RESOURCE_DROPPED, &RESOURCE_ENTITIES]);

// What both signals have on the way down to a record.
pub static RESOURCE: Field = field("resource", 1, Kind::One(&RESOURCE_MESSAGE));
pub static SCOPE: Field = field("scope", 1, Kind::One(&SCOPE_MESSAGE));
static SCHEMA_URL: Field = field("schemaUrl", 3, Kind::Text);

// logs.proto
pub static RESOURCE_LOGS: Field = field("resourceLogs", 1, Kind::Many(&RESOURCE_LOGS_MESSAGE));
static RESOURCE_LOGS_MESSAGE: Message = message(&[&RESOURCE, &SCOPE_LOGS, &SCHEMA_URL]);
pub static SCOPE_LOGS: Field = field("scopeLogs", 2, Kind::Many(&SCOPE_LOGS_MESSAGE));
static SCOPE_LOGS_MESSAGE: Message = message(&[&SCOPE, &LOG_RECORDS, &SCHEMA_URL]);
pub static LOG_RECORDS: Field = field("logRecords", 2, Kind::Many(&LOG_RECORD));
pub static LOG_TIME: Field = field("timeUnixNano", 1, Kind::Fixed64);
pub static LOG_SEVERITY: Field = field("severityNumber", 2, Kind::Enum);
pub static LOG_SEVERITY_TEXT: Field = field("severityText", 3, Kind::Text);
pub static LOG_BODY: Field = field("body", 5, Kind::One(&ANY_VALUE));
pub static LOG_ATTRIBUTES: Field = field("attributes", 6, Kind::Many(&KEY_VALUE));
static LOG_DROPPED: Field = field("droppedAttributesCount", 7, Kind::Uint32);
static LOG_FLAGS: Field = field("flags", 8, Kind::Fixed32);
pub static LOG_TRACE_ID: Field = field("traceId", 9, Kind::Id(16));
pub static LOG_SPAN_ID: Field = field("spanId", 10, Kind::Id(8));
pub static LOG_OBSERVED: Field = field("observedTimeUnixNano", 11, Kind::Fixed64);
pub static LOG_EVENT_NAME: Field = field("eventName", 12, Kind::Text);
pub static LOG_RECORD: Message = Message {
    fields: &[
        &LOG_TIME,
        &LOG_SEVERITY,
        &LOG_SEVERITY_TEXT,
        &LOG_BODY,
        &LOG_ATTRIBUTES,
        &LOG_DROPPED,
        &LOG_FLAGS,
        &LOG_TRACE_ID,
        &LOG_SPAN_ID,
        &LOG_OBSERVED,
        &LOG_EVENT_NAME,
    ],
    oneof: false,
    record: true,
};

// trace.proto
pub static RESOURCE_SPANS: Field = field("resourceSpans", 1, Kind::Many(&RESOURCE_SPANS_MESSAGE));
static RESOURCE_SPANS_MESSAGE: Message = message(&[&RESOURCE, &SCOPE_SPANS, &SCHEMA_URL]);
pub static SCOPE_SPANS: Field = field("scopeSpans", 2, Kind::Many(&SCOPE_SPANS_MESSAGE));
static SCOPE_SPANS_MESSAGE: Message = message(&[&SCOPE, &SPANS, &SCHEMA_URL]);
pub static SPANS: Field = field("spans", 2, Kind::Many(&SPAN));
static SPAN_TRACE_ID: Field = field("traceId", 1, Kind::Id(16));
static SPAN_ID: Field = field("spanId", 2, Kind::Id(8));
static SPAN_TRACE_STATE: Field = field("traceState", 3, Kind::Text);
static SPAN_PARENT: Field = field("parentSpanId", 4, Kind::Id(8));
static SPAN_NAME: Field = field("name", 5, Kind::Text);
static SPAN_KIND: Field = field("kind", 6, Kind::Enum);
static SPAN_START: Field = field("startTimeUnixNano", 7, Kind::Fixed64);
static SPAN_END: Field = field("endTimeUnixNano", 8, Kind::Fixed64);
pub static SPAN_ATTRIBUTES: Field = field("attributes", 9, Kind::Many(&KEY_VALUE));
static SPAN_DROPPED: Field = field("droppedAttributesCount", 10, Kind::Uint32);
static SPAN_EVENTS: Field = field("events", 11, Kind::Many(&SPAN_EVENT));
static SPAN_DROPPED_EVENTS: Field = field("droppedEventsCount", 12, Kind::Uint32);
static SPAN_LINKS: Field = field("links", 13, Kind::Many(&SPAN_LINK));
static SPAN_DROPPED_LINKS: Field = field("droppedLinksCount", 14, Kind::Uint32);
static SPAN_STATUS: Field = field("status", 15, Kind::One(&STATUS));
static SPAN_FLAGS: Field = field("flags", 16, Kind::Fixed32);
pub static SPAN: Message = Message {
    fields: &[
        &SPAN_TRACE_ID,
        &SPAN_ID,
        &SPAN_TRACE_STATE,
        &SPAN_PARENT,
        &SPAN_NAME,
        &SPAN_KIND,
        &SPAN_START,
        &SPAN_END,
        &SPAN_ATTRIBUTES,
        &SPAN_DROPPED,
        &SPAN_EVENTS,
        &SPAN_DROPPED_EVENTS,
        &SPAN_LINKS,
        &SPAN_DROPPED_LINKS,
        &SPAN_STATUS,
        &SPAN_FLAGS,
    ],
    oneof: false,
    record: true,
};
static EVENT_TIME: Field = field("timeUnixNano", 1, Kind::Fixed64);
static EVENT_NAME: Field = field("name", 2, Kind::Text);
static EVENT_ATTRIBUTES: Field = field("attributes", 3, Kind::Many(&KEY_VALUE));
static EVENT_DROPPED: Field = field("droppedAttributesCount", 4, Kind::Uint32);
static SPAN_EVENT: Message = message(&[&EVENT_TIME, &EVENT_NAME, &EVENT_ATTRIBUTES, &EVENT_DROPPED]);
static LINK_TRACE_ID: Field = field("traceId", 1, Kind::Id(16));
static LINK_SPAN_ID: Field = field("spanId", 2, Kind::Id(8));
static LINK_TRACE_STATE: Field = field("traceState", 3, Kind::Text);
static LINK_ATTRIBUTES: Field = field("attributes", 4, Kind::Many(&KEY_VALUE));
static LINK_DROPPED: Field = field("droppedAttributesCount", 5, Kind::Uint32);
static LINK_FLAGS: Field = field("flags", 6, Kind::Fixed32);
static SPAN_LINK: Message = message(&[
    &LINK_TRACE_ID,
    &LINK_SPAN_ID,
    &LINK_TRACE_STATE,
    &LINK_ATTRIBUTES,
    &LINK_DROPPED,
    &LINK_FLAGS,
]);
static STATUS_MESSAGE: Field = field("message", 2, Kind::Text);
static STATUS_CODE: Field = field("code", 3, Kind::Enum);
static STATUS: Message = message(&[&STATUS_MESSAGE, &STATUS_CODE]);
