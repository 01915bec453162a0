/*
 * The options, and the configuration that they make. `telemetry` is the library's own JSON object, and each of its
 * keys is an option, too: `telemetry-` and the key, with dashes. Nothing is judged here: what the library does not
 * accept, a key given both ways among it, it refuses itself, in the same words as everywhere.
 */
#include "telemetry_uwsgi.h"

enum kind {
    TEXT, /* a JSON string, always */
    JSON, /* a number, true, false, an object or an array as it stands; anything else as a string, to be refused */
};

/* Members of one group stand together; a key of the configuration itself has none. */
#define KEYS(X)                                       \
    X(TEXT, , endpoint, "endpoint")                   \
    X(TEXT, , format, "format")                       \
    X(TEXT, , encoding, "encoding")                   \
    X(TEXT, , api_key, "api-key")                     \
    X(TEXT, , basic, "basic")                         \
    X(TEXT, , bearer, "bearer")                       \
    X(JSON, , headers, "headers")                     \
    X(TEXT, , name, "name")                           \
    X(JSON, , context, "context")                     \
    X(TEXT, , compression, "compression")             \
    X(JSON, , timeout_ms, "timeout-ms")               \
    X(TEXT, tls, ca_file, "tls-ca-file")              \
    X(TEXT, tls, cert_file, "tls-cert-file")          \
    X(TEXT, tls, key_file, "tls-key-file")            \
    X(TEXT, , proxy, "proxy")                         \
    X(TEXT, , resolver, "resolver")                   \
    X(JSON, batch, max_events, "batch-max-events")    \
    X(JSON, batch, max_bytes, "batch-max-bytes")      \
    X(JSON, batch, max_age_ms, "batch-max-age-ms")    \
    X(JSON, , queue_bytes, "queue-bytes")             \
    X(JSON, , segment_bytes, "segment-bytes")         \
    X(JSON, , max_event_bytes, "max-event-bytes")     \
    X(TEXT, , on_full, "on-full")                     \
    X(JSON, , block_timeout_ms, "block-timeout-ms")   \
    X(JSON, retry, initial_ms, "retry-initial-ms")    \
    X(JSON, retry, max_ms, "retry-max-ms")            \
    X(JSON, retry, max_age_s, "retry-max-age-s")      \
    X(TEXT, , spool_dir, "spool-dir")                 \
    X(JSON, , spool_max_bytes, "spool-max-bytes")     \
    X(JSON, , spool_max_age_s, "spool-max-age-s")     \
    X(TEXT, , spool_evict, "spool-evict")             \
    X(TEXT, , sync, "sync")                           \
    X(TEXT, , dead_letter, "dead-letter")             \
    X(JSON, , exit_timeout_ms, "exit-timeout-ms")     \
    X(JSON, , idle_ms, "idle-ms")                     \
    X(TEXT, , clock, "clock")                         \
    X(JSON, , media_max_bytes, "media-max-bytes")     \
    X(JSON, , redact, "redact")                       \
    X(JSON, sample, rate, "sample-rate")              \
    X(TEXT, sample, key, "sample-key")                \
    X(JSON, , disabled, "disabled")

#define AS_NUMBER(kind, group, member, option) NUMBER_##group##_##member,
#define AS_KEY(kind, group, member, option) {kind, #group, #member, NULL},
#define HELP(group, member) \
    sizeof(#group) > 1 ? "telemetry: the key " #group "." #member : "telemetry: the key " #member
#define AS_OPTION(kind, group, member, option)                                        \
    {"telemetry-" option, required_argument, 0, HELP(group, member), set_key,         \
     &keys[NUMBER_##group##_##member], 0},

enum { KEYS(AS_NUMBER) COUNT };

static struct key {
    enum kind kind;
    const char *group;
    const char *member;
    const char *value; /* uWSGI's, who keeps it; NULL when not given */
} keys[] = {KEYS(AS_KEY)};

static const char *whole;

int telemetry_uwsgi_requests;

/* Of an option given twice the last one counts, as with uWSGI's own. */
static void set_key(char *option, char *value, void *key)
{
    (void)option;
    ((struct key *)key)->value = value ? value : "";
}

static void set_whole(char *option, char *value, void *unused)
{
    (void)option;
    (void)unused;
    whole = value ? value : "";
}

struct uwsgi_option telemetry_uwsgi_options[] = {
    {"telemetry", required_argument, 0, "telemetry: the configuration, one JSON object", set_whole, NULL, 0},
    {"telemetry-requests", no_argument, 0, "telemetry: report each request", uwsgi_opt_true,
     &telemetry_uwsgi_requests, 0},
    KEYS(AS_OPTION)
    {NULL, 0, 0, NULL, NULL, NULL, 0},
};

/* Whether the text is a number as JSON writes it. */
static int number(const char *text)
{
    size_t digits;

    if (*text == '-') text++;
    digits = strspn(text, "0123456789");
    if (!digits || (*text == '0' && digits > 1)) return 0;
    text += digits;
    if (*text == '.') {
        digits = strspn(text + 1, "0123456789");
        if (!digits) return 0;
        text += 1 + digits;
    }
    return *text == '\0';
}

static int as_it_stands(const struct key *key)
{
    const char *value = key->value;

    if (key->kind == TEXT) return 0;
    return *value == '{' || *value == '[' || !strcmp(value, "true") || !strcmp(value, "false") || number(value);
}

static char *append(char *out, const char *text)
{
    size_t len = strlen(text);
    memcpy(out, text, len);
    return out + len;
}

/* The keys that have an option, as members of an object, without its braces. */
static char *append_keys(char *out)
{
    const char *group = "", *comma = "";
    int i;

    for (i = 0; i < COUNT; i++) {
        const struct key *key = &keys[i];

        if (!key->value) continue;
        if (strcmp(group, key->group)) {
            if (*group) out = append(out, "}");
            out = append(out, comma);
            if (*key->group) {
                out = append(append(append(out, "\""), key->group), "\":{");
                comma = "";
            }
            group = key->group;
            if (*group == '\0') comma = "";
        }
        out = append(append(append(append(out, comma), "\""), key->member), "\":");
        out = as_it_stands(key) ? append(out, key->value) : telemetry_uwsgi_quote(out, key->value, strlen(key->value));
        comma = ",";
    }
    return *group ? append(out, "}") : out;
}

char *telemetry_uwsgi_options_json(void)
{
    const char *start = whole ? whole : "{}", *end = start + strlen(start), *inner;
    size_t room = (size_t)(end - start) + 8;
    char *json, *out;
    int i, given = 0;

    for (i = 0; i < COUNT; i++) {
        if (!keys[i].value) continue;
        given = 1;
        room += strlen(keys[i].group) + strlen(keys[i].member) + TELEMETRY_UWSGI_QUOTED(strlen(keys[i].value)) + 16;
    }
    json = out = uwsgi_malloc(room);
    start += strspn(start, " \t\r\n");
    while (end > start && strchr(" \t\r\n", end[-1])) end--;
    /* What is no object is for the library to refuse. */
    if (!given || end - start < 2 || *start != '{' || end[-1] != '}') {
        memcpy(out, start, (size_t)(end - start));
        out[end - start] = '\0';
        return json;
    }
    inner = start + 1 + strspn(start + 1, " \t\r\n");
    memcpy(out, start, (size_t)(end - 1 - start));
    out += end - 1 - start;
    if (inner < end - 1) *out++ = ',';
    out = append_keys(out);
    memcpy(out, "}", 2);
    return json;
}
