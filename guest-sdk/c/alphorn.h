// What a plugin in C includes (one in C++: alphorn.hpp): a thin layer over wit.h, which
// wit-bindgen makes of the WIT package `alphorn:plugin` and which says what each call means.
// All of wit.h is there, too.
//
// Text that goes in ends with a NUL. An error is its words, and no error is NULL; they are
// good until the next call of this layer.

#ifndef ALPHORN_H
#define ALPHORN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wit.h"

#ifdef __cplusplus
extern "C" {
#endif

// What the plugin defines. Only alphorn_start has to be there.

/// Why an instance starts, and what the version before handed over (NULL: nothing).
typedef struct {
  exports_alphorn_plugin_guest_start_reason_t reason;
  const uint8_t *handed_over;
  size_t handed_over_length;
} alphorn_start_t;

/// An inbound message. The topic ends with a NUL, the payload does not.
typedef struct {
  const char *topic;
  const uint8_t *payload;
  size_t length;
  int qos;
  bool retain;
  uint32_t attempt;
  bool redelivered;
  /// With its MQTT 5 properties.
  const alphorn_plugin_types_message_t *whole;
} alphorn_message_t;

/// What became of a message. The words are for the log.
typedef struct {
  enum { ALPHORN_HANDLED, ALPHORN_RETRY, ALPHORN_DROP } what;
  const char *words;
} alphorn_outcome_t;

alphorn_outcome_t alphorn_handled(void);
/// Deliver it again later.
alphorn_outcome_t alphorn_retry(const char *words);
/// Give it up.
alphorn_outcome_t alphorn_drop(const char *words);

/// Called first: subscriptions and timers are asked for here. Words: it can't work.
const char *alphorn_start(const alphorn_start_t *start);
alphorn_outcome_t alphorn_on_message(const alphorn_message_t *message);
const char *alphorn_on_timer(uint32_t timer, uint32_t missed);
void alphorn_on_event(const exports_alphorn_plugin_guest_event_t *event);
/// Called last. `alphorn_hand_over` gives the next version something. Words: no swap now.
const char *alphorn_on_stop(exports_alphorn_plugin_guest_stop_reason_t reason);

// What the plugin calls.

/// Hands a message to the host, at QoS 0 or 1.
const char *alphorn_publish(const char *topic, const void *payload, size_t length, int qos);
/// The same with all that a message can have: retained, with MQTT 5 properties.
const char *alphorn_publish_message(const alphorn_plugin_types_message_t *message);
const char *alphorn_subscribe(const char *filter, int qos);
const char *alphorn_unsubscribe(const char *filter);

/// Timers, in milliseconds. The number reaches alphorn_on_timer.
const char *alphorn_every(uint32_t period, uint32_t *timer);
const char *alphorn_after(uint32_t delay, uint32_t *timer);
void alphorn_cancel(uint32_t timer);

/// A value of the plugin's `[config]` table, for the caller to free; NULL: there is none.
char *alphorn_config(const char *key);

/// Durable state. The value is for the caller to free, and NULL if there is none.
const char *alphorn_state_get(const char *key, uint8_t **value, size_t *length);
const char *alphorn_state_set(const char *key, const void *value, size_t length);
const char *alphorn_state_remove(const char *key);

/// In alphorn_on_stop: what the next version gets. It is copied.
void alphorn_hand_over(const void *value, size_t length);

/// Milliseconds since 1970 by the device's clock.
double alphorn_now(void);

/// Lines of the host's log. What is printed goes there too.
void alphorn_log(alphorn_plugin_host_level_t level, const char *text);
void alphorn_info(const char *text);
void alphorn_warn(const char *text);
void alphorn_error(const char *text);

#ifdef __cplusplus
}
#endif

#endif
