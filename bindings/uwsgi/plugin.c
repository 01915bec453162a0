/*
 * libtelemetry in uWSGI: one client for the whole server, opened in the master and used by every fork of it.
 *
 * The client needs no hook to be right: it works in each worker from its first event on, and exit() delivers. What
 * the hooks add is the worker's number, the flush before the master executes itself anew (which is no exit), the
 * flush before a worker begins to take its interpreter down, and the event for each request.
 */
#include "telemetry_uwsgi.h"

/* The flush before the interpreter goes. It is short: the library's own at exit() follows. */
#define BEFORE_EXIT_MS 250
#define EXIT_TIMEOUT_MS 1000

static telemetry_t *client;
static char *config;

telemetry_t *telemetry_uwsgi_client(void)
{
    return client;
}

const char *telemetry_uwsgi_config(void)
{
    return config ? config : "{}";
}

/*
 * Open the client. It is the first hook that runs with the rights that the applications are loaded with, and the
 * last one before they are. A configuration that is not accepted ends uWSGI, as its own do.
 */
static void open_client(void)
{
    char reason[1024];

    config = telemetry_uwsgi_options_json();
    if (telemetry_open(config, &client) != TELEMETRY_OK) {
        telemetry_last_error(reason, sizeof(reason));
        uwsgi_log("telemetry: %s\n", reason);
        exit(1);
    }
    /* uWSGI looks the name up when it has loaded the applications. */
    if (telemetry_uwsgi_requests) uwsgi_string_new_list(&uwsgi.after_request_hooks, "telemetry_uwsgi_request");
}

/* In workers, and with no number in mules and spoolers. */
static void number_worker(void)
{
    if (telemetry_set_worker((uint32_t)uwsgi.mywid) != TELEMETRY_OK) uwsgi_log("telemetry: no worker number\n");
}

/* How long the end of a process may wait, as the library has it from the same two places. */
static uint32_t exit_timeout_ms(void)
{
    const char *text = strstr(telemetry_uwsgi_config(), "\"exit_timeout_ms\"");

    if (text) text += strcspn(text, ":") + 1;
    if (!text || !*text) text = getenv("TELEMETRY_EXIT_TIMEOUT_MS");
    return text ? (uint32_t)strtoul(text, NULL, 10) : EXIT_TIMEOUT_MS;
}

/* Whether this process has used the client: to flush it would make it look after what others left. */
static int used(void)
{
    telemetry_stats_t stats;

    return client && telemetry_stats(client, &stats, sizeof(stats)) == TELEMETRY_OK && stats.accepted;
}

static void flush(uint32_t timeout_ms)
{
    /* What is left stays in the queue, where the library's exit handler finds it, or in the spool. */
    if (used() && telemetry_flush(client, timeout_ms) == TELEMETRY_INTERNAL) uwsgi_log("telemetry: cannot flush\n");
}

/*
 * A worker, mule or spooler ends, and its interpreter is still there. Not with skip-atexit. Nor in the middle of a
 * request, for uWSGI exits in the handler of a signal, which may have come while memory was being allocated: there
 * the library's exit handler is alone, as Python is then not taken down either.
 */
static void before_exit(void)
{
    if (!uwsgi.mywid || !uwsgi_worker_is_busy(uwsgi.mywid)) flush(BEFORE_EXIT_MS);
}

/* The master is about to end, for which the library has its exit handler, or to execute itself, which runs none. */
static void before_exec(void)
{
    if (uwsgi_instance_is_reloading) flush(exit_timeout_ms());
}

struct uwsgi_plugin telemetry_plugin = {
    .name = "telemetry",
    .options = telemetry_uwsgi_options,
    .post_init = open_client,
    .post_fork = number_worker,
    .atexit = before_exit,
    .master_cleanup = before_exec,
};
