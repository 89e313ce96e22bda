#include "alphorn.h"

#include <stdlib.h>
#include <string.h>

// `alphorn build` puts the types into the component; wit.c asks for another way to do it.
void __component_type_object_force_link_wit(void) {}

// What a plugin may leave out.

__attribute__((weak)) alphorn_outcome_t alphorn_on_message(const alphorn_message_t *message) {
  return alphorn_handled();
}

__attribute__((weak)) const char *alphorn_on_timer(uint32_t timer, uint32_t missed) {
  return NULL;
}

__attribute__((weak)) void alphorn_on_event(const exports_alphorn_plugin_guest_event_t *event) {}

__attribute__((weak)) const char *alphorn_on_stop(exports_alphorn_plugin_guest_stop_reason_t reason) {
  return NULL;
}

// Text of both kinds.

/// For a call: it is only read.
static wit_string_t borrowed(const char *text) {
  return (wit_string_t){(uint8_t *)text, strlen(text)};
}

/// With a NUL behind it, for its owner to free.
static char *terminated(const uint8_t *bytes, size_t length) {
  char *text = malloc(length + 1);
  if (text == NULL) abort();
  if (length > 0) memcpy(text, bytes, length);
  text[length] = 0;
  return text;
}

/// The words of an error, kept until the next one.
static const char *error(const wit_string_t *words, const char *otherwise) {
  static char *last = NULL;
  free(last);
  last = words == NULL ? terminated((const uint8_t *)otherwise, strlen(otherwise)) : terminated(words->ptr, words->len);
  return last;
}

// What became of a message.

alphorn_outcome_t alphorn_handled(void) {
  return (alphorn_outcome_t){ALPHORN_HANDLED, NULL};
}

alphorn_outcome_t alphorn_retry(const char *words) {
  return (alphorn_outcome_t){ALPHORN_RETRY, words};
}

alphorn_outcome_t alphorn_drop(const char *words) {
  return (alphorn_outcome_t){ALPHORN_DROP, words};
}

// What the plugin calls.

const char *alphorn_publish_message(const alphorn_plugin_types_message_t *message) {
  uint32_t id;
  alphorn_plugin_mqtt_publish_error_t refusal;
  // It is only read.
  if (alphorn_plugin_mqtt_publish((alphorn_plugin_types_message_t *)message, &id, &refusal)) return NULL;
  const char *words;
  switch (refusal.tag) {
    case ALPHORN_PLUGIN_MQTT_PUBLISH_ERROR_TOO_LARGE: words = error(NULL, "the message is too large"); break;
    case ALPHORN_PLUGIN_MQTT_PUBLISH_ERROR_RATE_LIMITED: words = error(NULL, "the publish rate is used up"); break;
    case ALPHORN_PLUGIN_MQTT_PUBLISH_ERROR_OUTBOX_FULL: words = error(NULL, "the outbox is full"); break;
    // All others come with words.
    default: words = error(&refusal.val.other, NULL);
  }
  alphorn_plugin_mqtt_publish_error_free(&refusal);
  return words;
}

const char *alphorn_publish(const char *topic, const void *payload, size_t length, int qos) {
  alphorn_plugin_types_message_t message = {0};
  message.topic = borrowed(topic);
  message.payload = (wit_list_u8_t){(uint8_t *)payload, length};
  message.qos = qos == 0 ? ALPHORN_PLUGIN_TYPES_QOS_AT_MOST_ONCE : ALPHORN_PLUGIN_TYPES_QOS_AT_LEAST_ONCE;
  return alphorn_publish_message(&message);
}

static const char *subscribe_error(alphorn_plugin_mqtt_subscribe_error_t *refusal) {
  bool is_limit = refusal->tag == ALPHORN_PLUGIN_MQTT_SUBSCRIBE_ERROR_LIMIT_REACHED;
  const char *words = error(is_limit ? NULL : &refusal->val.other, "no further subscription is allowed");
  alphorn_plugin_mqtt_subscribe_error_free(refusal);
  return words;
}

const char *alphorn_subscribe(const char *filter, int qos) {
  wit_string_t asked = borrowed(filter);
  alphorn_plugin_mqtt_subscribe_error_t refusal;
  uint8_t wanted = qos == 0 ? ALPHORN_PLUGIN_TYPES_QOS_AT_MOST_ONCE : ALPHORN_PLUGIN_TYPES_QOS_AT_LEAST_ONCE;
  return alphorn_plugin_mqtt_subscribe(&asked, wanted, &refusal) ? NULL : subscribe_error(&refusal);
}

const char *alphorn_unsubscribe(const char *filter) {
  wit_string_t asked = borrowed(filter);
  alphorn_plugin_mqtt_subscribe_error_t refusal;
  return alphorn_plugin_mqtt_unsubscribe(&asked, &refusal) ? NULL : subscribe_error(&refusal);
}

static const char *timer_error(wit_string_t *refusal) {
  const char *words = error(refusal, NULL);
  wit_string_free(refusal);
  return words;
}

const char *alphorn_every(uint32_t period, uint32_t *timer) {
  wit_string_t refusal;
  return alphorn_plugin_timers_every(period, timer, &refusal) ? NULL : timer_error(&refusal);
}

const char *alphorn_after(uint32_t delay, uint32_t *timer) {
  wit_string_t refusal;
  return alphorn_plugin_timers_after(delay, timer, &refusal) ? NULL : timer_error(&refusal);
}

void alphorn_cancel(uint32_t timer) {
  alphorn_plugin_timers_cancel(timer);
}

char *alphorn_config(const char *key) {
  wit_string_t asked = borrowed(key), value;
  if (!alphorn_plugin_host_config(&asked, &value)) return NULL;
  char *text = terminated(value.ptr, value.len);
  wit_string_free(&value);
  return text;
}

static const char *state_error(alphorn_plugin_state_state_error_t *refusal) {
  const char *words;
  switch (refusal->tag) {
    case ALPHORN_PLUGIN_STATE_STATE_ERROR_NOT_GRANTED: words = error(NULL, "state is not granted"); break;
    case ALPHORN_PLUGIN_STATE_STATE_ERROR_TOO_LARGE: words = error(NULL, "the key or value is too large"); break;
    case ALPHORN_PLUGIN_STATE_STATE_ERROR_FULL: words = error(NULL, "the plugin's share of the store is used up"); break;
    default: words = error(&refusal->val.other, NULL);
  }
  alphorn_plugin_state_state_error_free(refusal);
  return words;
}

const char *alphorn_state_get(const char *key, uint8_t **value, size_t *length) {
  *value = NULL;
  *length = 0;
  wit_string_t asked = borrowed(key);
  wit_option_list_u8_t found;
  alphorn_plugin_state_state_error_t refusal;
  if (!alphorn_plugin_state_get(&asked, &found, &refusal)) return state_error(&refusal);
  if (found.is_some) {
    *value = (uint8_t *)terminated(found.val.ptr, found.val.len);
    *length = found.val.len;
    wit_option_list_u8_free(&found);
  }
  return NULL;
}

const char *alphorn_state_set(const char *key, const void *value, size_t length) {
  wit_string_t asked = borrowed(key);
  wit_list_u8_t bytes = {(uint8_t *)value, length};
  alphorn_plugin_state_state_error_t refusal;
  return alphorn_plugin_state_set(&asked, &bytes, &refusal) ? NULL : state_error(&refusal);
}

const char *alphorn_state_remove(const char *key) {
  wit_string_t asked = borrowed(key);
  alphorn_plugin_state_state_error_t refusal;
  return alphorn_plugin_state_remove(&asked, &refusal) ? NULL : state_error(&refusal);
}

static wit_option_list_u8_t handed_over;

void alphorn_hand_over(const void *value, size_t length) {
  wit_option_list_u8_free(&handed_over);
  // The host frees it.
  handed_over.is_some = true;
  handed_over.val = (wit_list_u8_t){(uint8_t *)terminated(value, length), length};
}

double alphorn_now(void) {
  return alphorn_plugin_host_now();
}

void alphorn_log(alphorn_plugin_host_level_t level, const char *text) {
  wit_string_t line = borrowed(text);
  alphorn_plugin_host_log(level, &line);
}

void alphorn_info(const char *text) {
  alphorn_log(ALPHORN_PLUGIN_HOST_LEVEL_INFO, text);
}

void alphorn_warn(const char *text) {
  alphorn_log(ALPHORN_PLUGIN_HOST_LEVEL_WARN, text);
}

void alphorn_error(const char *text) {
  alphorn_log(ALPHORN_PLUGIN_HOST_LEVEL_ERROR, text);
}

// What the host calls.

bool exports_alphorn_plugin_guest_start(exports_alphorn_plugin_guest_start_info_t *info, wit_string_t *err) {
  bool has = info->handed_over.is_some;
  alphorn_start_t start = {info->reason, has ? info->handed_over.val.ptr : NULL, has ? info->handed_over.val.len : 0};
  const char *words = alphorn_start(&start);
  if (words != NULL) wit_string_dup(err, words);
  exports_alphorn_plugin_guest_start_info_free(info);
  return words == NULL;
}

bool exports_alphorn_plugin_guest_on_message(exports_alphorn_plugin_guest_delivery_t *delivery,
                                             exports_alphorn_plugin_guest_failure_t *err) {
  const alphorn_plugin_types_message_t *whole = &delivery->message;
  char *topic = terminated(whole->topic.ptr, whole->topic.len);
  alphorn_message_t message = {topic,         whole->payload.ptr, whole->payload.len,    whole->qos,
                               whole->retain, delivery->attempt,  delivery->redelivered, whole};
  alphorn_outcome_t outcome = alphorn_on_message(&message);
  if (outcome.what != ALPHORN_HANDLED) {
    bool drop = outcome.what == ALPHORN_DROP;
    err->tag = drop ? EXPORTS_ALPHORN_PLUGIN_GUEST_FAILURE_DROP : EXPORTS_ALPHORN_PLUGIN_GUEST_FAILURE_RETRY;
    wit_string_dup(drop ? &err->val.drop : &err->val.retry, outcome.words == NULL ? "" : outcome.words);
  }
  free(topic);
  exports_alphorn_plugin_guest_delivery_free(delivery);
  return outcome.what == ALPHORN_HANDLED;
}

bool exports_alphorn_plugin_guest_on_timer(uint32_t timer, uint32_t missed, wit_string_t *err) {
  const char *words = alphorn_on_timer(timer, missed);
  if (words != NULL) wit_string_dup(err, words);
  return words == NULL;
}

void exports_alphorn_plugin_guest_on_event(exports_alphorn_plugin_guest_event_t *event) {
  alphorn_on_event(event);
  exports_alphorn_plugin_guest_event_free(event);
}

bool exports_alphorn_plugin_guest_stop(exports_alphorn_plugin_guest_stop_reason_t reason, wit_option_list_u8_t *ret,
                                       wit_string_t *err) {
  const char *words = alphorn_on_stop(reason);
  if (words != NULL) {
    wit_string_dup(err, words);
    return false;
  }
  *ret = handed_over;
  handed_over = (wit_option_list_u8_t){0};
  return true;
}
