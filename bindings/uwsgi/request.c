/*
 * One event for each request, of the shape that libtelemetry.wsgi.Middleware has:
 *
 *   {"event":"request","method":"GET","route":"/users/7","status":200,"duration_ms":1.250,"bytes":12,
 *    "aborted":true,"trace_id":"...","worker":2,"pid":4711}
 *
 * `route` is the path without its query; `aborted` is there when the client went away before the end; `trace_id`
 * when a valid `traceparent` header came. No query, address, user or other header: what is reported about people
 * is the application's decision. Requests that the application never sees are reported, too (static files, routes
 * that answer); those marked `donotlog:` are not.
 *
 * It runs in the thread that served the request, when the answer has been sent, and keeps nothing.
 */
#include "telemetry_uwsgi.h"

#define ON_STACK 4096

static char *append(char *out, const char *text)
{
    size_t len = strlen(text);
    memcpy(out, text, len);
    return out + len;
}

static int hex_digits(const char *text, size_t count)
{
    while (count--) {
        if (!((text[count] >= '0' && text[count] <= '9') || (text[count] >= 'a' && text[count] <= 'f'))) return 0;
    }
    return 1;
}

/* The trace of a W3C traceparent header, 32 digits, or NULL: "VERSION-TRACE-PARENT-FLAGS", not all zeros. */
static const char *trace_of(const char *header, size_t len)
{
    static const char none[] = "00000000000000000000000000000000";

    if (len < 55 || header[2] != '-' || header[35] != '-' || header[52] != '-') return NULL;
    if (!hex_digits(header, 2) || !hex_digits(header + 3, 32)) return NULL;
    if (!hex_digits(header + 36, 16) || !hex_digits(header + 53, 2)) return NULL;
    return memcmp(header + 3, none, 32) ? header + 3 : NULL;
}

static size_t without_query(const char *uri, size_t len)
{
    const char *query = memchr(uri, '?', len);
    return query ? (size_t)(query - uri) : len;
}

void telemetry_uwsgi_request(struct wsgi_request *request)
{
    telemetry_t *client = telemetry_uwsgi_client();
    /* Behind a server that sends no PATH_INFO there is still the address of the request. */
    const char *path = request->path_info_len ? request->path_info : request->uri;
    size_t path_len = request->path_info_len ? request->path_info_len : without_query(request->uri, request->uri_len);
    size_t mount_len = request->path_info_len ? request->script_name_len : 0;
    uint64_t micros = request->end_of_request - request->start_of_request;
    char stack[ON_STACK], number[160], *event = stack, *out;
    const char *trace;
    uint16_t header_len = 0;
    char *header;
    telemetry_status taken;
    size_t room;

    /* Without a method it is no web request, but one for a mule, a signal, a remote procedure. */
    if (!client || !request->method_len || request->do_not_log) return;

    room = TELEMETRY_UWSGI_QUOTED(request->method_len) + TELEMETRY_UWSGI_QUOTED(mount_len + path_len) + 512;
    if (room > sizeof(stack)) {
        event = malloc(room);
        if (!event) return;
    }
    out = append(event, "{\"event\":\"request\",\"method\":");
    out = telemetry_uwsgi_quote(out, request->method, request->method_len);
    out = append(out, ",\"route\":\"");
    out = telemetry_uwsgi_escape(out, request->script_name, mount_len);
    out = telemetry_uwsgi_escape(out, path, path_len);
    *out++ = '"';
    if (request->status > 0) {
        snprintf(number, sizeof(number), ",\"status\":%d", request->status);
        out = append(out, number);
    }
    snprintf(number, sizeof(number), ",\"duration_ms\":%llu.%03llu,\"bytes\":%llu", (unsigned long long)(micros / 1000),
             (unsigned long long)(micros % 1000), (unsigned long long)request->response_size);
    out = append(out, number);
    if (request->write_errors) out = append(out, ",\"aborted\":true");
    header = uwsgi_get_var(request, "HTTP_TRACEPARENT", 16, &header_len);
    trace = header ? trace_of(header, header_len) : NULL;
    if (trace) {
        out = append(out, ",\"trace_id\":\"");
        memcpy(out, trace, 32);
        out = append(out + 32, "\"");
    }
    snprintf(number, sizeof(number), ",\"worker\":%d,\"pid\":%d}", uwsgi.mywid, (int)uwsgi.mypid);
    out = append(out, number);
    /* What was not taken is counted in the client's statistics; there is nobody here to tell. */
    taken = telemetry_enqueue(client, event, (size_t)(out - event));
    (void)taken;
    if (event != stack) free(event);
}
