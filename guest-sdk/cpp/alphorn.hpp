// What a plugin in C++ includes: a class to derive from, and alphorn.h in the words of the
// standard library. wit.h says what each call means.
//
//     class Hello : public alphorn::Plugin { … };
//     ALPHORN_PLUGIN(Hello)
//
// There are no exceptions: what can fail returns a Result, which has a value or words.

#ifndef ALPHORN_HPP
#define ALPHORN_HPP

#include <cstdlib>
#include <expected>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "alphorn.h"

namespace alphorn {

/// A value, or why there is none.
template <class T = void>
using Result = std::expected<T, std::string>;

/// What to return where a Result is wanted and something failed.
inline std::unexpected<std::string> fail(std::string words) {
  return std::unexpected(std::move(words));
}

/// Why an instance starts, and what the version before handed over.
struct Start {
  exports_alphorn_plugin_guest_start_reason_t reason;
  std::optional<std::string> handed_over;
};

/// An inbound message. Topic and payload are good until the call ends.
struct Message {
  std::string_view topic, payload;
  int qos;
  bool retain;
  uint32_t attempt;
  bool redelivered;
  /// Its MQTT 5 properties, to be looked at or passed on; NULL: it has none.
  const alphorn_plugin_types_properties_t *properties;
};

/// What became of a message. A Result is one, too: a message that failed is tried again.
struct Outcome {
  decltype(alphorn_outcome_t::what) what = alphorn_outcome_t::ALPHORN_HANDLED;
  /// For the log.
  std::string words = {};

  Outcome() = default;
  Outcome(decltype(what) what, std::string words) : what(what), words(std::move(words)) {}
  Outcome(const Result<> &result) {
    if (!result) *this = {alphorn_outcome_t::ALPHORN_RETRY, result.error()};
  }
};

inline Outcome handled() {
  return {};
}
/// Deliver it again later.
inline Outcome retry(std::string words) {
  return {alphorn_outcome_t::ALPHORN_RETRY, std::move(words)};
}
/// Give it up.
inline Outcome drop(std::string words) {
  return {alphorn_outcome_t::ALPHORN_DROP, std::move(words)};
}

/// What the host calls, one call at a time. Only `start` has to be there.
class Plugin {
 public:
  /// Called first: subscriptions and timers are asked for here. Words: it can't work.
  virtual Result<> start(const Start &start) = 0;
  virtual Outcome on_message(const Message &) { return {}; }
  virtual Result<> on_timer(uint32_t timer, uint32_t missed) { return {}; }
  virtual void on_event(const exports_alphorn_plugin_guest_event_t &) {}
  /// Called last. What it returns goes to the next version at a swap. Words: no swap now.
  virtual Result<std::optional<std::string>> stop(exports_alphorn_plugin_guest_stop_reason_t) { return std::nullopt; }

 protected:
  ~Plugin() = default;
};

namespace detail {

inline Result<> result(const char *words) {
  return words == nullptr ? Result<>() : fail(words);
}

/// Text with a NUL behind it, as C wants it.
inline std::string terminated(std::string_view text) {
  return std::string(text);
}

/// Words that outlive the call that has them.
inline const char *kept(std::string words) {
  static std::string &last = *new std::string;
  last = std::move(words);
  return last.c_str();
}

inline const char *kept(const Result<> &result) {
  return result ? nullptr : kept(result.error());
}

inline const char *start(Plugin &plugin, const alphorn_start_t &info) {
  Start start{info.reason, std::nullopt};
  if (info.handed_over != nullptr) start.handed_over.emplace((const char *)info.handed_over, info.handed_over_length);
  return kept(plugin.start(start));
}

inline alphorn_outcome_t on_message(Plugin &plugin, const alphorn_message_t &message) {
  const auto &properties = message.whole->properties;
  Outcome outcome = plugin.on_message({
      .topic = message.topic,
      .payload = {(const char *)message.payload, message.length},
      .qos = message.qos,
      .retain = message.retain,
      .attempt = message.attempt,
      .redelivered = message.redelivered,
      .properties = properties.is_some ? &properties.val : nullptr,
  });
  return {outcome.what, kept(std::move(outcome.words))};
}

inline const char *stop(Plugin &plugin, exports_alphorn_plugin_guest_stop_reason_t reason) {
  auto handed_over = plugin.stop(reason);
  if (!handed_over) return kept(handed_over.error());
  if (*handed_over) alphorn_hand_over((*handed_over)->data(), (*handed_over)->size());
  return nullptr;
}

}  // namespace detail

// What the plugin calls.

/// What a message may have beside topic and payload.
struct Publish {
  int qos = 1;
  bool retain = false;
  const alphorn_plugin_types_properties_t *properties = nullptr;
};

/// Hands a message to the host: `publish("a/b", "text", {.qos = 0})`.
inline Result<> publish(std::string_view topic, std::string_view payload, const Publish &how = {}) {
  alphorn_plugin_types_message_t message = {};
  // It is only read.
  message.topic = {(uint8_t *)topic.data(), topic.size()};
  message.payload = {(uint8_t *)payload.data(), payload.size()};
  message.qos = how.qos == 0 ? ALPHORN_PLUGIN_TYPES_QOS_AT_MOST_ONCE : ALPHORN_PLUGIN_TYPES_QOS_AT_LEAST_ONCE;
  message.retain = how.retain;
  message.properties.is_some = how.properties != nullptr;
  if (how.properties != nullptr) message.properties.val = *how.properties;
  return detail::result(alphorn_publish_message(&message));
}

inline Result<> subscribe(std::string_view filter, int qos = 1) {
  return detail::result(alphorn_subscribe(detail::terminated(filter).c_str(), qos));
}

inline Result<> unsubscribe(std::string_view filter) {
  return detail::result(alphorn_unsubscribe(detail::terminated(filter).c_str()));
}

/// Timers, in milliseconds. The number reaches on_timer.
inline Result<uint32_t> every(uint32_t period) {
  uint32_t timer;
  const char *words = alphorn_every(period, &timer);
  return words == nullptr ? Result<uint32_t>(timer) : fail(words);
}

inline Result<uint32_t> after(uint32_t delay) {
  uint32_t timer;
  const char *words = alphorn_after(delay, &timer);
  return words == nullptr ? Result<uint32_t>(timer) : fail(words);
}

inline void cancel(uint32_t timer) {
  alphorn_cancel(timer);
}

/// A value of the plugin's `[config]` table.
inline std::optional<std::string> config(std::string_view key) {
  char *value = alphorn_config(detail::terminated(key).c_str());
  if (value == nullptr) return std::nullopt;
  std::string text = value;
  std::free(value);
  return text;
}

/// Durable state.
inline Result<std::optional<std::string>> state_get(std::string_view key) {
  uint8_t *value;
  size_t length;
  const char *words = alphorn_state_get(detail::terminated(key).c_str(), &value, &length);
  if (words != nullptr) return fail(words);
  if (value == nullptr) return std::nullopt;
  std::string bytes((const char *)value, length);
  std::free(value);
  return bytes;
}

inline Result<> state_set(std::string_view key, std::string_view value) {
  return detail::result(alphorn_state_set(detail::terminated(key).c_str(), value.data(), value.size()));
}

inline Result<> state_remove(std::string_view key) {
  return detail::result(alphorn_state_remove(detail::terminated(key).c_str()));
}

/// Milliseconds since 1970 by the device's clock.
inline double now() {
  return alphorn_now();
}

/// Lines of the host's log. What is printed goes there too.
inline void info(std::string_view text) {
  alphorn_info(detail::terminated(text).c_str());
}
inline void warn(std::string_view text) {
  alphorn_warn(detail::terminated(text).c_str());
}
inline void error(std::string_view text) {
  alphorn_error(detail::terminated(text).c_str());
}

}  // namespace alphorn

/// Names the plugin's class, in one file. It is made when the instance starts, and never ends.
#define ALPHORN_PLUGIN(Type)                                                                    \
  static alphorn::Plugin &alphorn_plugin() {                                                    \
    static Type &plugin = *new Type;                                                            \
    return plugin;                                                                              \
  }                                                                                             \
  extern "C" const char *alphorn_start(const alphorn_start_t *start) {                          \
    return alphorn::detail::start(alphorn_plugin(), *start);                                    \
  }                                                                                             \
  extern "C" alphorn_outcome_t alphorn_on_message(const alphorn_message_t *message) {           \
    return alphorn::detail::on_message(alphorn_plugin(), *message);                             \
  }                                                                                             \
  extern "C" const char *alphorn_on_timer(uint32_t timer, uint32_t missed) {                    \
    return alphorn::detail::kept(alphorn_plugin().on_timer(timer, missed));                     \
  }                                                                                             \
  extern "C" void alphorn_on_event(const exports_alphorn_plugin_guest_event_t *event) {         \
    alphorn_plugin().on_event(*event);                                                          \
  }                                                                                             \
  extern "C" const char *alphorn_on_stop(exports_alphorn_plugin_guest_stop_reason_t reason) {   \
    return alphorn::detail::stop(alphorn_plugin(), reason);                                     \
  }

#endif
