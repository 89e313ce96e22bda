// Sends each message back on its topic with /echo behind it.

#include <alphorn.hpp>

static constexpr std::string_view SUFFIX = "/echo";

class Echo final : public alphorn::Plugin {
  alphorn::Result<> start(const alphorn::Start &) override {
    auto filter = alphorn::config("filter");
    if (!filter) return alphorn::fail("config `filter` is missing; it says what to echo, like \"test/#\"");
    return alphorn::subscribe(*filter);
  }

  alphorn::Outcome on_message(const alphorn::Message &message) override {
    // The filter may cover the echoes as well: an echo of one would never end.
    if (message.topic.ends_with(SUFFIX)) return alphorn::handled();
    std::string topic(message.topic);
    topic += SUFFIX;
    return alphorn::publish(topic, message.payload, {.qos = message.qos, .properties = message.properties});
  }
};

ALPHORN_PLUGIN(Echo)
