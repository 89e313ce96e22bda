// A guest in C: echoes what arrives and publishes a beat each second.

#include "gen/plugin.h"

#include <stdlib.h>
#include <string.h>

typedef alphorn_plugin_types_message_t message_t;

bool exports_alphorn_plugin_guest_start(exports_alphorn_plugin_guest_start_info_t *info, plugin_string_t *err) {
  plugin_string_t filter;
  plugin_string_set(&filter, "check/in");
  alphorn_plugin_mqtt_subscribe_error_t refusal;
  bool ok = alphorn_plugin_mqtt_subscribe(&filter, ALPHORN_PLUGIN_TYPES_QOS_AT_LEAST_ONCE, &refusal);
  if (ok) {
    uint32_t timer;
    ok = alphorn_plugin_timers_every(1000, &timer, err);
  } else {
    alphorn_plugin_mqtt_subscribe_error_free(&refusal);
    plugin_string_dup(err, "no subscription");
  }
  exports_alphorn_plugin_guest_start_info_free(info);
  return ok;
}

bool exports_alphorn_plugin_guest_on_message(exports_alphorn_plugin_guest_delivery_t *delivery, exports_alphorn_plugin_guest_failure_t *err) {
  // One type for both directions: only the topic changes.
  message_t *message = &delivery->message;
  const char out[] = "/out";
  size_t len = message->topic.len;
  message->topic.ptr = realloc(message->topic.ptr, len + sizeof out - 1);
  memcpy(message->topic.ptr + len, out, sizeof out - 1);
  message->topic.len = len + sizeof out - 1;

  uint32_t id;
  alphorn_plugin_mqtt_publish_error_t refusal;
  bool ok = alphorn_plugin_mqtt_publish(message, &id, &refusal);
  if (!ok) {
    // A variant with a payload (milliseconds) and one without are worth another try.
    bool later = refusal.tag == ALPHORN_PLUGIN_MQTT_PUBLISH_ERROR_RATE_LIMITED
              || refusal.tag == ALPHORN_PLUGIN_MQTT_PUBLISH_ERROR_OUTBOX_FULL;
    err->tag = later ? EXPORTS_ALPHORN_PLUGIN_GUEST_FAILURE_RETRY : EXPORTS_ALPHORN_PLUGIN_GUEST_FAILURE_DROP;
    plugin_string_dup(later ? &err->val.retry : &err->val.drop, "not published");
    alphorn_plugin_mqtt_publish_error_free(&refusal);
  }
  exports_alphorn_plugin_guest_delivery_free(delivery);
  return ok;
}

bool exports_alphorn_plugin_guest_on_timer(uint32_t timer, uint32_t missed, plugin_string_t *err) {
  message_t message = {.qos = ALPHORN_PLUGIN_TYPES_QOS_AT_MOST_ONCE};
  plugin_string_set(&message.topic, "check/beat");
  message.payload.ptr = (uint8_t *)"beat";
  message.payload.len = 4;
  message.properties.is_some = true;
  message.properties.val.content_type.is_some = true;
  plugin_string_set(&message.properties.val.content_type.val, "text/plain");

  uint32_t id;
  alphorn_plugin_mqtt_publish_error_t refusal;
  if (alphorn_plugin_mqtt_publish(&message, &id, &refusal)) return true;
  alphorn_plugin_mqtt_publish_error_free(&refusal);
  plugin_string_dup(err, "not published");
  return false;
}

void exports_alphorn_plugin_guest_on_event(exports_alphorn_plugin_guest_event_t *event) {
  exports_alphorn_plugin_guest_event_free(event);
}

bool exports_alphorn_plugin_guest_stop(exports_alphorn_plugin_guest_stop_reason_t reason, plugin_option_list_u8_t *ret, plugin_string_t *err) {
  ret->is_some = false;
  return true;
}
