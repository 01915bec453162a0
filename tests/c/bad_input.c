/* Wrong arguments, wrong configurations, wrong events: a clear answer or a counted drop, and nothing else lost. */
#include "check.h"

static void says(const char *config, const char *word) {
  telemetry_t *t = (telemetry_t *)0x1;
  char why[300] = "";
  telemetry_status status = telemetry_open(config, &t);
  if (status != TELEMETRY_INVALID) ck_fail(__FILE__, __LINE__, "%s: status %d", config, (int)status);
  CHECK(t == NULL || t == (telemetry_t *)0x1); /* outputs are written on success only; NULL would do */
  size_t length = telemetry_last_error(why, sizeof why);
  CHECK(length > 0 && why[0]);
  if (word && !strstr(why, word)) ck_fail(__FILE__, __LINE__, "%s: \"%s\" does not name %s", config, why, word);
}

static void arguments(void) {
  telemetry_stats_t stats;
  telemetry_t *t = NULL;
  CHECK_STATUS(telemetry_open(NULL, NULL), TELEMETRY_INVALID);
  CHECK_STATUS(telemetry_open("{}", NULL), TELEMETRY_INVALID);
  CHECK(telemetry_last_error(NULL, 0) > 0); /* the length, so that a caller can make room */
  CHECK_STATUS(telemetry_enqueue(NULL, "{}", 2), TELEMETRY_INVALID);
  CHECK_STATUS(telemetry_flush(NULL, 10), TELEMETRY_INVALID);
  CHECK_STATUS(telemetry_shutdown(NULL, 10), TELEMETRY_INVALID);
  CHECK_STATUS(telemetry_stats(NULL, &stats, sizeof stats), TELEMETRY_INVALID);
  telemetry_free(NULL);
  telemetry_set_logger(NULL, NULL, TELEMETRY_WARN);
  CHECK(telemetry_last_error(NULL, 0) > 0); /* the length, so that a caller can make room */

  t = ck_open("");
  CHECK_STATUS(telemetry_enqueue(t, NULL, 0), TELEMETRY_INVALID);
  CHECK_STATUS(telemetry_enqueue(t, NULL, 2), TELEMETRY_INVALID);
  CHECK_STATUS(telemetry_enqueue(t, "{}", 0), TELEMETRY_INVALID);
  CHECK_STATUS(telemetry_stats(t, NULL, sizeof stats), TELEMETRY_INVALID);
  stats.accepted = 77;
  telemetry_stats(t, &stats, 0); /* whatever it says, there is no room to write to */
  CHECK_EQ(stats.accepted, 77);
  ck_send(t, "good", 0, 10);
  ck_settle(t);
  CHECK_EQ(ck_stats(t).accepted, 10);
  telemetry_free(t);

  for (int status = TELEMETRY_OK; status <= TELEMETRY_INTERNAL; status++) {
    const char *name = telemetry_status_str(status);
    CHECK(name && *name);
    for (int other = 0; other < status; other++) CHECK(strcmp(name, telemetry_status_str(other)));
  }
  CHECK(telemetry_status_str(-1) && telemetry_status_str(8) && telemetry_status_str(INT32_MAX) && telemetry_status_str(INT32_MIN));
  CHECK(telemetry_version() && strlen(telemetry_version()) >= 5);
  CHECK(telemetry_abi_version() >= 1);
}

static void configuration(void) {
  says("nonsense", NULL);
  says("[]", NULL);
  says("{\"endpoint\":", NULL);
  says("{\"endpoint\":\"\xff\xfe\"}", NULL);
  says("{\"endpont\":\"http://127.0.0.1:1\"}", "endpoint");
  says("{\"batch\":{\"max_evnts\":1}}", "max_events");
  says("{\"queue_bytes\":\"many\"}", "queue_bytes");
  says("{\"queue_bytes\":-1}", "queue_bytes");
  says("{\"format\":\"morse\"}", "format");
  says("{\"endpoint\":\"gopher://127.0.0.1\"}", "endpoint");
  says("{\"endpoint\":7}", "endpoint");
  says("{\"batch\":7}", "batch");
  says("{\"compression\":\"brotli\"}", "compression");
}

/* Events that are no JSON object are counted as invalid; their neighbours arrive. */
static void events(void) {
  static const char *const bad[] = {
      "not json", "{", "}", "{\"a\":1", "{\"a\":1}}", "{\"a\":\"\xff\xfe\"}", "{\"a\":\"\xc3\"}", "[1,2]", "7", "null", "\"text\"",
      "{\"a\":1}\n{\"b\":2}", "{\"a\":01}", "{\"a\":nan}", "{'a':1}", "{\"a\":1,}", " ", "\n",
  };
  enum { BAD = sizeof bad / sizeof *bad };
  telemetry_t *t = ck_open("\"max_event_bytes\":4096");
  long refused = 0;
  for (int i = 0; i < BAD; i++) {
    ck_send(t, "good", i * 2, 1);
    CHECK_STATUS(telemetry_enqueue(t, bad[i], strlen(bad[i])), TELEMETRY_OK);
    refused++;
    ck_send(t, "good", i * 2 + 1, 1);
  }
  CHECK_STATUS(telemetry_enqueue(t, "\0\0\0", 3), TELEMETRY_OK);
  refused++;
  static char large[5000];
  memset(large, ' ', sizeof large);
  large[0] = '{';
  large[4999] = '}';
  CHECK_STATUS(telemetry_enqueue(t, large, sizeof large), TELEMETRY_TOO_LARGE);
  CHECK_STATUS(telemetry_enqueue(t, large, 4097), TELEMETRY_TOO_LARGE);
  telemetry_status absurd = telemetry_enqueue(t, large, SIZE_MAX);
  CHECK(absurd == TELEMETRY_TOO_LARGE || absurd == TELEMETRY_INVALID);
  CHECK_STATUS(telemetry_enqueue(t, large, (size_t)UINT32_MAX + 64), TELEMETRY_TOO_LARGE);
  large[4095] = '}'; /* the largest that fits, but not JSON that the ledger knows: make it invalid */
  large[1] = '!';
  CHECK_STATUS(telemetry_enqueue(t, large, 4096), TELEMETRY_OK);
  refused++;
  CHECK_STATUS(telemetry_flush(t, CK_PATIENCE_MS), TELEMETRY_OK);
  telemetry_stats_t stats = ck_stats(t);
  CK_BALANCE(stats);
  CHECK_EQ(stats.invalid, refused);
  CHECK_EQ(stats.dropped_too_large, absurd == TELEMETRY_TOO_LARGE ? 4 : 3);
  CHECK_EQ(stats.delivered, BAD * 2);
  CHECK_EQ(stats.rejected, 0);
  telemetry_free(t);
}

static void unreachable(void) {
  static const char *const nowhere[] = {"http://127.0.0.1:1", "http://192.0.2.1:9", "http://nobody.invalid:9"};
  for (int i = 0; i < 3; i++) {
    telemetry_t *t = ck_open_at(nowhere[i], CK_FAST ",\"exit_timeout_ms\":100,\"timeout_ms\":3600000");
    CHECK_STATUS(ck_enqueue(t, "nowhere", i), TELEMETRY_OK);
    long long started = ck_now_ms();
    CHECK_STATUS(telemetry_flush(t, 400), TELEMETRY_TIMEOUT);
    CHECK_AT_MOST(ck_now_ms() - started, 60000);
    started = ck_now_ms();
    CHECK_STATUS(telemetry_shutdown(t, 200), TELEMETRY_TIMEOUT);
    CHECK_AT_MOST(ck_now_ms() - started, 60000);
    started = ck_now_ms();
    telemetry_free(t);
    CHECK_AT_MOST(ck_now_ms() - started, 60000);
  }
  CK_AWAIT(ck_threads() == 1, CK_PATIENCE_MS);
}

/* A caller built against an older or a newer header. */
static void sizes(void) {
  telemetry_t *t = ck_open("");
  ck_send(t, "good", 0, 10);
  ck_settle(t);
  union { telemetry_stats_t stats; unsigned char bytes[sizeof(telemetry_stats_t) + 64]; } out;
  memset(&out, 0xab, sizeof out);
  CHECK_STATUS(telemetry_stats(t, &out.stats, 16), TELEMETRY_OK);
  CHECK_EQ(out.stats.accepted, 10);
  CHECK_EQ(out.stats.delivered, 10);
  for (size_t i = 16; i < sizeof out; i++) CHECK_EQ(out.bytes[i], 0xab);
  memset(&out, 0xab, sizeof out);
  CHECK_STATUS(telemetry_stats(t, &out.stats, sizeof out), TELEMETRY_OK);
  CHECK_EQ(out.stats.accepted, 10);
  for (size_t i = sizeof out.stats; i < sizeof out; i++) CHECK_EQ(out.bytes[i], 0); /* counters we do not know are 0 */
  telemetry_free(t);

  telemetry_t *none = NULL;
  CHECK_STATUS(telemetry_open("{\"endpont\":\"x\"}", &none), TELEMETRY_INVALID);
  char whole[300], part[300];
  size_t length = telemetry_last_error(whole, sizeof whole);
  CHECK_EQ(length, strlen(whole));
  for (size_t cap = 0; cap <= length + 1; cap++) {
    memset(part, 0xab, sizeof part);
    CHECK_EQ(telemetry_last_error(part, cap), length);
    if (cap) CHECK(memchr(part, 0, cap) && !strncmp(whole, part, strlen(part)));
    CHECK((unsigned char)part[cap] == 0xab);
  }
}

int main(int argc, char **argv) {
  ck_start(argc, 1);
  const char *what = argv[1];
  if (!strcmp(what, "arguments")) arguments();
  else if (!strcmp(what, "configuration")) configuration();
  else if (!strcmp(what, "events")) events();
  else if (!strcmp(what, "unreachable")) unreachable();
  else if (!strcmp(what, "sizes")) sizes();
  else ck_fail(__FILE__, __LINE__, "no scenario %s", what);
  return 0;
}
