/*
 * Text as a JSON string. A path is whatever bytes a client sends; an event that is not JSON would be dropped.
 */
#include "telemetry_uwsgi.h"

static int within(const unsigned char *text, size_t len, size_t at, unsigned low, unsigned high)
{
    return at < len && text[at] >= low && text[at] <= high;
}

/*
 * How many bytes the character at `text` takes; sets `*valid`. When it is no UTF-8 these are the bytes that one
 * U+FFFD stands for: the longest beginning of a character that there is (Unicode, "maximal subpart").
 */
static size_t character(const unsigned char *text, size_t len, int *valid)
{
    unsigned low = 0x80, high = 0xBF;
    size_t size, at;

    *valid = 1;
    if (text[0] < 0x80) return 1;
    if (text[0] >= 0xC2 && text[0] <= 0xDF) {
        size = 2;
    } else if ((text[0] & 0xF0) == 0xE0) {
        size = 3;
        if (text[0] == 0xE0) low = 0xA0;  /* no longer than needed */
        if (text[0] == 0xED) high = 0x9F; /* no surrogates */
    } else if (text[0] >= 0xF0 && text[0] <= 0xF4) {
        size = 4;
        if (text[0] == 0xF0) low = 0x90;
        if (text[0] == 0xF4) high = 0x8F; /* not above U+10FFFF */
    } else {
        *valid = 0;
        return 1;
    }
    for (at = 1; at < size; at++) {
        if (!within(text, len, at, low, high)) {
            *valid = 0;
            return at;
        }
        low = 0x80;
        high = 0xBF;
    }
    return size;
}

char *telemetry_uwsgi_escape(char *out, const char *text, size_t len)
{
    static const char hex[] = "0123456789abcdef";
    const unsigned char *at = (const unsigned char *)text;

    while (len > 0) {
        int valid;
        size_t size = character(at, len, &valid);

        if (!valid) {
            memcpy(out, "\xEF\xBF\xBD", 3);
            out += 3;
        } else if (*at == '"' || *at == '\\') {
            *out++ = '\\';
            *out++ = (char)*at;
        } else if (*at < 0x20) {
            memcpy(out, "\\u00", 4);
            out[4] = hex[*at >> 4];
            out[5] = hex[*at & 15];
            out += 6;
        } else {
            memcpy(out, at, size);
            out += size;
        }
        at += size;
        len -= size;
    }
    return out;
}

char *telemetry_uwsgi_quote(char *out, const char *text, size_t len)
{
    *out++ = '"';
    out = telemetry_uwsgi_escape(out, text, len);
    *out++ = '"';
    return out;
}
