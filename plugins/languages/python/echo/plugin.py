"""Sends each message back on its topic with /echo behind it."""

from alphorn import Plugin, config, publish, subscribe

SUFFIX = "/echo"


class Echo(Plugin):
    def start(self, info):
        wanted = config("filter")
        if wanted is None:
            raise ValueError('config `filter` is missing; it says what to echo, like "test/#"')
        subscribe(wanted)

    def on_message(self, message):
        # The filter may cover the echoes as well: an echo of one would never end.
        if message.topic.endswith(SUFFIX):
            return
        publish(message.topic + SUFFIX, message.payload, qos=message.qos, properties=message.properties)
