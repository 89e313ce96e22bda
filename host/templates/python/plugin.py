"""Counts the seconds, and greets whoever sends a name."""

from alphorn import Plugin, config, every, publish, subscribe


class {{type}}(Plugin):
    def start(self, info):
        self.greeting = config("greeting", "Hello")
        self.seconds = 0
        subscribe("{{name}}/in")
        every(1)

    def on_timer(self, timer, missed):
        self.seconds += 1
        publish("{{name}}/count", str(self.seconds))

    def on_message(self, message):
        publish("{{name}}/out", f"{self.greeting}, {message.text()}!")
