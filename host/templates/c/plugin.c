// Counts the seconds, and greets whoever sends a name.

#include <alphorn.h>
#include <stdio.h>
#include <stdlib.h>

static char *greeting;
static unsigned long seconds;

const char *alphorn_start(const alphorn_start_t *start) {
  greeting = alphorn_config("greeting");
  const char *error = alphorn_subscribe("{{name}}/in", 1);
  if (error != NULL) return error;
  uint32_t timer;
  return alphorn_every(1000, &timer);
}

const char *alphorn_on_timer(uint32_t timer, uint32_t missed) {
  char text[32];
  int length = snprintf(text, sizeof text, "%lu", ++seconds);
  return alphorn_publish("{{name}}/count", text, length, 1);
}

alphorn_outcome_t alphorn_on_message(const alphorn_message_t *message) {
  // A payload is bytes, without a NUL at its end.
  char text[256];
  int length = snprintf(text, sizeof text, "%s, %.*s!", greeting == NULL ? "Hello" : greeting, (int)message->length,
                        (const char *)message->payload);
  // Another attempt would find no more room.
  if (length >= (int)sizeof text) return alphorn_drop("the name is too long");
  const char *error = alphorn_publish("{{name}}/out", text, length, 1);
  return error == NULL ? alphorn_handled() : alphorn_retry(error);
}
