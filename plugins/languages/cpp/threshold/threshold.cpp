// Raises an alarm when a sensor's value is over a limit, and when none comes any more.

#include <alphorn.hpp>
#include <cmath>
#include <cstdio>

#include "../../c/threshold/json.h"

static constexpr std::string_view KEY = "alarm";

/// JSON has no NAN.
static std::string number_text(double value) {
  if (std::isnan(value)) return "null";
  char text[32];
  int length = snprintf(text, sizeof text, "%.17g", value);
  return std::string(text, length);
}

/// What is kept, and handed over: the same JSON in every language.
struct Alarm {
  bool high = false, missing = false;
  /// The last value; NAN: there was none.
  double value = NAN;

  std::string_view name() const { return missing ? "missing" : high ? "high" : "normal"; }

  std::string kept() const {
    std::string text = high ? "{\"high\":true" : "{\"high\":false";
    text += missing ? ",\"missing\":true" : ",\"missing\":false";
    return text + ",\"value\":" + number_text(value) + "}";
  }

  /// What was kept or handed over.
  static std::optional<Alarm> of(const std::string &text) {
    Alarm alarm;
    if (!json_bool(text.c_str(), "high", &alarm.high)) return std::nullopt;
    if (!json_bool(text.c_str(), "missing", &alarm.missing)) return std::nullopt;
    if (!json_number(text.c_str(), "value", &alarm.value)) alarm.value = NAN;
    return alarm;
  }
};

static alphorn::Result<std::string> text(std::string_view key) {
  auto value = alphorn::config(key);
  if (!value) return alphorn::fail("config `" + std::string(key) + "` is missing");
  return *value;
}

static alphorn::Result<double> number(std::string_view key, const std::string &value) {
  char *end;
  double number = strtod(value.c_str(), &end);
  if (!value.empty() && *end == 0 && std::isfinite(number)) return number;
  return alphorn::fail("config `" + std::string(key) + "` is \"" + value + "\"; it has to be a number");
}

static alphorn::Result<double> number(std::string_view key, const char *otherwise) {
  return number(key, alphorn::config(key).value_or(otherwise));
}

class Threshold final : public alphorn::Plugin {
  std::string topic, alarm_topic;
  double limit = 0, hysteresis = 0, missing_after = 0;
  Alarm alarm;
  /// Fires when nothing has come for too long.
  std::optional<uint32_t> timer;

  alphorn::Result<> configure() {
    auto topic = text("topic"), alarm_topic = text("alarm"), wanted = text("limit");
    for (auto *text : {&topic, &alarm_topic, &wanted}) {
      if (!*text) return alphorn::fail(text->error());
    }
    auto limit = number("limit", *wanted);
    auto hysteresis = number("hysteresis", "0"), missing_after = number("missing_after", "60");
    for (auto *number : {&limit, &hysteresis, &missing_after}) {
      if (!*number) return alphorn::fail(number->error());
    }
    this->topic = *topic;
    this->alarm_topic = *alarm_topic;
    this->limit = *limit;
    this->hysteresis = *hysteresis;
    this->missing_after = *missing_after;
    return {};
  }

  /// Keeps it, and tells of it if it is called something else now.
  alphorn::Result<> change_to(const Alarm &next) {
    if (auto kept = alphorn::state_set(KEY, next.kept()); !kept) return kept;
    if (next.name() != alarm.name()) {
      std::string report = "{\"alarm\":\"" + std::string(next.name()) + "\",\"value\":" + number_text(next.value) + "}";
      if (auto published = alphorn::publish(alarm_topic, report); !published) return published;
    }
    // Not before: a call that fails has changed nothing.
    alarm = next;
    return {};
  }

  alphorn::Result<> wait_for_next() {
    if (timer) alphorn::cancel(*timer);
    timer.reset();
    if (!(missing_after > 0)) return {};
    auto started = alphorn::after((uint32_t)std::ceil(missing_after * 1000));
    if (!started) return alphorn::fail(started.error());
    timer = *started;
    return {};
  }

  alphorn::Result<> start(const alphorn::Start &start) override {
    if (auto configured = configure(); !configured) return configured;
    auto kept = alphorn::state_get(KEY);
    if (!kept) return alphorn::fail(kept.error());
    // The version before, in whatever language, says how things are; else the store does.
    const auto &before = start.handed_over ? start.handed_over : *kept;
    if (before) {
      auto known = Alarm::of(*before);
      if (!known) return alphorn::fail("what was handed over or kept is no alarm: " + *before);
      alarm = *known;
    }
    std::string source = start.handed_over ? "the version before" : *kept ? "the store" : "nobody";
    alphorn::info(std::string(alarm.name()) + " as " + source + " says");
    if (auto asked = alphorn::subscribe(topic); !asked) return asked;
    return wait_for_next();
  }

  alphorn::Outcome on_message(const alphorn::Message &message) override {
    std::string text(message.payload);
    double value;
    bool is_reading = text.find('\0') == text.npos && json_number(text.c_str(), "value", &value);
    if (!is_reading) return alphorn::drop("not a reading: it has no number `value`");
    // What is high has to come down further than it had to rise.
    bool high = value > (alarm.high ? limit - hysteresis : limit);
    if (auto changed = change_to({high, false, value}); !changed) return changed;
    return wait_for_next();
  }

  alphorn::Result<> on_timer(uint32_t, uint32_t) override {
    return change_to({alarm.high, true, alarm.value});
  }

  alphorn::Result<std::optional<std::string>> stop(exports_alphorn_plugin_guest_stop_reason_t) override {
    return alarm.kept();
  }
};

ALPHORN_PLUGIN(Threshold)
