/*
 * The files of the uWSGI plugin, to each other.
 *
 *   plugin.c   when uWSGI calls what, and the client
 *   options.c  uWSGI's options, made into the library's configuration
 *   request.c  one event for each request
 *   json.c     text as JSON, whatever its bytes are
 *
 * There is one client, opened in the master before it forks. It is written once, then only read.
 */
#ifndef TELEMETRY_UWSGI_H
#define TELEMETRY_UWSGI_H

#include <uwsgi.h>

#include <telemetry.h>

extern struct uwsgi_server uwsgi;

/* plugin.c: these two are also what libtelemetry.uwsgi looks for in the running program. */

/** The client that the plugin opened, or NULL before that. It stays the plugin's: do not free it. */
telemetry_t *telemetry_uwsgi_client(void);

/** The configuration given in uWSGI's options, as JSON; without what the environment adds. Never NULL. */
const char *telemetry_uwsgi_config(void);

/* options.c */

/** For struct uwsgi_plugin. */
extern struct uwsgi_option telemetry_uwsgi_options[];

/** Whether `telemetry-requests` is on. */
extern int telemetry_uwsgi_requests;

/** The options as one JSON object, for telemetry_open; the caller's to free. Never NULL: without memory uWSGI ends. */
char *telemetry_uwsgi_options_json(void);

/* request.c */

/** uWSGI calls it by this name when a request has been answered: reports it. Any thread. */
void telemetry_uwsgi_request(struct wsgi_request *request);

/* json.c */

/** Room that telemetry_uwsgi_quote needs for so many bytes, at most: two quotes, and six for each byte. */
#define TELEMETRY_UWSGI_QUOTED(bytes) (6 * (size_t)(bytes) + 2)

/**
 * Write `len` bytes at `text` as a JSON string, quotes included, to `out`; the end of what was written.
 * What is not UTF-8 becomes U+FFFD, as Python's decode(errors="replace") does it.
 */
char *telemetry_uwsgi_quote(char *out, const char *text, size_t len);

/** The same without the quotes. */
char *telemetry_uwsgi_escape(char *out, const char *text, size_t len);

#endif
