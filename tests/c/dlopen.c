/* Load, use and unload the library a thousand times: nothing piles up. Not linked with it. */
#include "check.h"

#include <dlfcn.h>

enum { ROUNDS = 1000, WARM = 100 };

/* check.h calls these by name; here they come out of dlsym. */
static telemetry_status (*open_)(const char *, telemetry_t **);
static telemetry_status (*enqueue_)(telemetry_t *, const void *, size_t);
static telemetry_status (*flush_)(telemetry_t *, uint32_t);
static void (*free_)(telemetry_t *);
size_t telemetry_last_error(char *out, size_t cap) { return out && cap ? (out[0] = 0, 0) : 0; }
telemetry_status telemetry_open(const char *config, telemetry_t **out) { return open_(config, out); }
telemetry_status telemetry_enqueue(telemetry_t *t, const void *event, size_t size) { return enqueue_(t, event, size); }
telemetry_status telemetry_flush(telemetry_t *t, uint32_t ms) { return flush_(t, ms); }
telemetry_status telemetry_stats(telemetry_t *t, telemetry_stats_t *out, size_t size) {
  (void)t, (void)out, (void)size;
  return TELEMETRY_INTERNAL;
}

int main(int argc, char **argv) {
  ck_start(argc, 0);
  (void)argv;
  int threads = 0, fds = 0, maps = 0;
  long rss = 0;
  for (int i = 0; i < ROUNDS; i++) {
    void *library = dlopen(ck_env("TEST_LIBRARY"), RTLD_NOW | RTLD_LOCAL);
    if (!library) ck_fail(__FILE__, __LINE__, "%s", dlerror());
    *(void **)&open_ = dlsym(library, "telemetry_open");
    *(void **)&enqueue_ = dlsym(library, "telemetry_enqueue");
    *(void **)&flush_ = dlsym(library, "telemetry_flush");
    *(void **)&free_ = dlsym(library, "telemetry_free");
    CHECK(open_ && enqueue_ && flush_ && free_);
    telemetry_t *t = ck_open("");
    ck_send(t, "loop", i, 1);
    if (i % 2) CHECK_STATUS(telemetry_flush(t, CK_PATIENCE_MS), TELEMETRY_OK);
    free_(t);
    CHECK_EQ(dlclose(library), 0);
    if (i == WARM) threads = ck_threads(), fds = ck_fds(), maps = ck_maps(), rss = ck_rss_kib();
  }
  CK_AWAIT(ck_threads() <= threads, CK_PATIENCE_MS);
  CHECK_AT_MOST(ck_fds(), fds);
  CHECK_AT_MOST(ck_maps(), maps + 8);
  CHECK_AT_MOST(ck_rss_kib(), rss + 4096);
  return 0;
}
