// Publishes the local time once a second.

#include <alphorn.h>
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static char *topic;
static int qos;
static time_t offset;

/// Seconds from UTC, of "+09:00" or "-03:30"; false if it is not like that.
static bool offset_of(const char *text, time_t *seconds) {
  static const char shape[] = "+00:00";
  if (strlen(text) != sizeof shape - 1 || (text[0] != '+' && text[0] != '-')) return false;
  for (size_t i = 1; i < sizeof shape - 1; i++) {
    if (shape[i] == ':' ? text[i] != ':' : !isdigit((unsigned char)text[i])) return false;
  }
  long hours = strtol(text + 1, NULL, 10), minutes = strtol(text + 4, NULL, 10);
  if (hours > 23 || minutes > 59) return false;
  *seconds = (text[0] == '-' ? -60 : 60) * (hours * 60 + minutes);
  return true;
}

const char *alphorn_start(const alphorn_start_t *start) {
  topic = alphorn_config("topic");
  if (topic == NULL) topic = strdup("test/date");
  char *wanted = alphorn_config("qos");
  if (wanted != NULL && strcmp(wanted, "0") != 0 && strcmp(wanted, "1") != 0) {
    return "config `qos` can be \"0\" or \"1\"";
  }
  qos = wanted != NULL && wanted[0] == '1';
  free(wanted);
  char *zone = alphorn_config("utc_offset");
  if (zone != NULL && !offset_of(zone, &offset)) {
    return "config `utc_offset` has to be like \"+09:00\" or \"-03:30\"";
  }
  free(zone);
  uint32_t timer;
  return alphorn_every(1000, &timer);
}

const char *alphorn_on_timer(uint32_t timer, uint32_t missed) {
  time_t now = (time_t)(alphorn_now() / 1000) + offset;
  struct tm date;
  char line[64] = "try to publish: ";
  char *payload = line + strlen(line);
  size_t length = strftime(payload, sizeof line - strlen(line), "%Y-%m-%dT%H:%M:%S", gmtime_r(&now, &date));
  alphorn_info(line);
  // A refusal is for the log: the next second brings a newer time.
  const char *refusal = alphorn_publish(topic, payload, length, qos);
  if (refusal != NULL) alphorn_error(refusal);
  return NULL;
}
