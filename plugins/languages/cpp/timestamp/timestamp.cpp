// Publishes the local time once a second.

#include <alphorn.hpp>
#include <ctime>

/// Seconds from UTC, of "+09:00" or "-03:30"; none if it is not like that.
static std::optional<time_t> offset_of(std::string_view text) {
  constexpr std::string_view SHAPE = "+00:00";
  if (text.size() != SHAPE.size() || (text[0] != '+' && text[0] != '-')) return std::nullopt;
  for (size_t i = 1; i < SHAPE.size(); i++) {
    if (SHAPE[i] == ':' ? text[i] != ':' : text[i] < '0' || text[i] > '9') return std::nullopt;
  }
  auto two = [text](size_t at) { return (text[at] - '0') * 10 + text[at + 1] - '0'; };
  int hours = two(1), minutes = two(4);
  if (hours > 23 || minutes > 59) return std::nullopt;
  return (text[0] == '-' ? -60 : 60) * (hours * 60 + minutes);
}

class Timestamp final : public alphorn::Plugin {
  std::string topic;
  int qos = 0;
  time_t offset = 0;

  alphorn::Result<> start(const alphorn::Start &) override {
    topic = alphorn::config("topic").value_or("test/date");
    std::string wanted = alphorn::config("qos").value_or("0");
    if (wanted != "0" && wanted != "1") return alphorn::fail("config `qos` can be \"0\" or \"1\"");
    qos = wanted == "1" ? 1 : 0;
    auto seconds = offset_of(alphorn::config("utc_offset").value_or("+00:00"));
    if (!seconds) return alphorn::fail("config `utc_offset` has to be like \"+09:00\" or \"-03:30\"");
    offset = *seconds;
    auto timer = alphorn::every(1000);
    if (!timer) return alphorn::fail(timer.error());
    return {};
  }

  alphorn::Result<> on_timer(uint32_t, uint32_t) override {
    time_t now = (time_t)(alphorn::now() / 1000) + offset;
    tm date;
    char text[32];
    size_t length = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", gmtime_r(&now, &date));
    std::string payload(text, length);
    alphorn::info("try to publish: " + payload);
    // A refusal is for the log: the next second brings a newer time.
    auto published = alphorn::publish(topic, payload, {.qos = qos});
    if (!published) alphorn::error(published.error());
    return {};
  }
};

ALPHORN_PLUGIN(Timestamp)
