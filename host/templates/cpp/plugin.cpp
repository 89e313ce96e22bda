// Counts the seconds, and greets whoever sends a name.

#include <alphorn.hpp>

class {{type}} final : public alphorn::Plugin {
  std::string greeting;
  unsigned long seconds = 0;

  alphorn::Result<> start(const alphorn::Start &) override {
    greeting = alphorn::config("greeting").value_or("Hello");
    if (auto asked = alphorn::subscribe("{{name}}/in"); !asked) return asked;
    auto timer = alphorn::every(1000);
    if (!timer) return alphorn::fail(timer.error());
    return {};
  }

  alphorn::Result<> on_timer(uint32_t, uint32_t) override {
    return alphorn::publish("{{name}}/count", std::to_string(++seconds));
  }

  // A message whose publishing fails is tried again.
  alphorn::Outcome on_message(const alphorn::Message &message) override {
    return alphorn::publish("{{name}}/out", greeting + ", " + std::string(message.payload) + "!");
  }
};

ALPHORN_PLUGIN({{type}})
