// Raises an alarm when a sensor's value is over a limit, and when none comes any more.

#include <alphorn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

static const char KEY[] = "alarm";

/// What is kept, and handed over: the same JSON in every language.
typedef struct {
  bool high, missing;
  /// The last value; NAN: there was none.
  double value;
} alarm_t;

static char *topic, *alarm_topic;
static double limit, hysteresis, missing_after;
static alarm_t alarm = {false, false, NAN};
/// Fires when nothing has come for too long.
static uint32_t timer;
static bool has_timer;

static const char *name(const alarm_t *of) {
  return of->missing ? "missing" : of->high ? "high" : "normal";
}

/// JSON has no NAN.
static const char *number_text(double value, char text[32]) {
  if (isnan(value)) return "null";
  snprintf(text, 32, "%.17g", value);
  return text;
}

static int kept(const alarm_t *of, char text[128]) {
  char number[32];
  return snprintf(text, 128, "{\"high\":%s,\"missing\":%s,\"value\":%s}", of->high ? "true" : "false",
                  of->missing ? "true" : "false", number_text(of->value, number));
}

/// Takes up what was kept or handed over.
static bool take_up(const uint8_t *bytes, size_t length) {
  char *text = strndup((const char *)bytes, length);
  bool ok = text != NULL && json_bool(text, "high", &alarm.high) && json_bool(text, "missing", &alarm.missing);
  if (ok && !json_number(text, "value", &alarm.value)) alarm.value = NAN;
  free(text);
  return ok;
}

/// Keeps it, and tells of it if it is called something else now.
static const char *change_to(alarm_t next) {
  char text[128], number[32];
  const char *refusal = alphorn_state_set(KEY, text, kept(&next, text));
  if (refusal != NULL) return refusal;
  if (strcmp(name(&next), name(&alarm)) != 0) {
    int length = snprintf(text, sizeof text, "{\"alarm\":\"%s\",\"value\":%s}", name(&next), number_text(next.value, number));
    refusal = alphorn_publish(alarm_topic, text, length, 1);
    if (refusal != NULL) return refusal;
  }
  // Not before: a call that fails has changed nothing.
  alarm = next;
  return NULL;
}

static const char *wait_for_next(void) {
  if (has_timer) alphorn_cancel(timer);
  has_timer = false;
  if (!(missing_after > 0)) return NULL;
  const char *refusal = alphorn_after((uint32_t)ceil(missing_after * 1000), &timer);
  has_timer = refusal == NULL;
  return refusal;
}

/// Reads a number of the configuration; words if it is none.
static const char *number(const char *key, double *value) {
  static char words[96];
  char *text = alphorn_config(key), *end = NULL;
  if (text == NULL) return NULL;
  *value = strtod(text, &end);
  bool ok = end != text && *end == 0 && isfinite(*value);
  if (!ok) snprintf(words, sizeof words, "config `%s` is \"%.32s\"; it has to be a number", key, text);
  free(text);
  return ok ? NULL : words;
}

const char *alphorn_start(const alphorn_start_t *start) {
  const char *error;
  limit = NAN;
  missing_after = 60;
  topic = alphorn_config("topic");
  if (topic == NULL) return "config `topic` is missing";
  alarm_topic = alphorn_config("alarm");
  if (alarm_topic == NULL) return "config `alarm` is missing";
  if ((error = number("limit", &limit)) != NULL) return error;
  if (isnan(limit)) return "config `limit` is missing";
  if ((error = number("hysteresis", &hysteresis)) != NULL) return error;
  if ((error = number("missing_after", &missing_after)) != NULL) return error;

  // The version before, in whatever language, says how things are; else the store does.
  const char *source = "nobody";
  if (start->handed_over != NULL) {
    source = "the version before";
    if (!take_up(start->handed_over, start->handed_over_length)) return "what was handed over is no alarm";
  } else {
    uint8_t *bytes;
    size_t length;
    if ((error = alphorn_state_get(KEY, &bytes, &length)) != NULL) return error;
    bool ok = bytes == NULL || take_up(bytes, length);
    if (bytes != NULL) source = "the store";
    free(bytes);
    if (!ok) return "what is kept is no alarm";
  }
  char line[64];
  snprintf(line, sizeof line, "%s as %s says", name(&alarm), source);
  alphorn_info(line);
  if ((error = alphorn_subscribe(topic, 1)) != NULL) return error;
  return wait_for_next();
}

alphorn_outcome_t alphorn_on_message(const alphorn_message_t *message) {
  char *text = strndup((const char *)message->payload, message->length);
  double value;
  bool ok = text != NULL && strlen(text) == message->length && json_number(text, "value", &value);
  free(text);
  if (!ok) return alphorn_drop("not a reading: it has no number `value`");
  // What is high has to come down further than it had to rise.
  bool high = value > (alarm.high ? limit - hysteresis : limit);
  const char *refusal = change_to((alarm_t){high, false, value});
  if (refusal == NULL) refusal = wait_for_next();
  return refusal == NULL ? alphorn_handled() : alphorn_retry(refusal);
}

const char *alphorn_on_timer(uint32_t fired, uint32_t missed) {
  return change_to((alarm_t){alarm.high, true, alarm.value});
}

const char *alphorn_on_stop(exports_alphorn_plugin_guest_stop_reason_t reason) {
  char text[128];
  alphorn_hand_over(text, kept(&alarm, text));
  return NULL;
}
