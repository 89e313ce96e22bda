// Sends each message back on its topic with /echo behind it.

#include <alphorn.h>
#include <stdlib.h>
#include <string.h>

static const char SUFFIX[] = "/echo";

const char *alphorn_start(const alphorn_start_t *start) {
  char *filter = alphorn_config("filter");
  if (filter == NULL) return "config `filter` is missing; it says what to echo, like \"test/#\"";
  const char *refusal = alphorn_subscribe(filter, 1);
  free(filter);
  return refusal;
}

alphorn_outcome_t alphorn_on_message(const alphorn_message_t *message) {
  size_t length = strlen(message->topic), suffix = sizeof SUFFIX - 1;
  // The filter may cover the echoes as well: an echo of one would never end.
  if (length >= suffix && strcmp(message->topic + length - suffix, SUFFIX) == 0) return alphorn_handled();
  char *topic = malloc(length + sizeof SUFFIX);
  if (topic == NULL) return alphorn_retry("no memory");
  memcpy(topic, message->topic, length);
  memcpy(topic + length, SUFFIX, sizeof SUFFIX);
  // The whole message, its properties included: only the topic is another.
  alphorn_plugin_types_message_t echo = *message->whole;
  echo.topic = (wit_string_t){(uint8_t *)topic, length + suffix};
  echo.retain = false;
  const char *refusal = alphorn_publish_message(&echo);
  free(topic);
  return refusal == NULL ? alphorn_handled() : alphorn_retry(refusal);
}
