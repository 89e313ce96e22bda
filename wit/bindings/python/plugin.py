"""A guest in Python: echoes what arrives and publishes a beat each second."""

from dataclasses import replace

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.guest import Failure_Drop, Failure_Retry
from wit_world.imports import mqtt, timers
from wit_world.imports.mqtt import PublishError_OutboxFull, PublishError_RateLimited
from wit_world.imports.types import Message, Properties, Qos


class Guest(exports.Guest):
    def start(self, info):
        mqtt.subscribe("check/in", Qos.AT_LEAST_ONCE)
        timers.every(1000)

    def on_message(self, delivery):
        message = delivery.message
        try:
            # One type for both directions: only the topic changes.
            mqtt.publish(replace(message, topic=message.topic + "/out"))
        except Err as refusal:
            # A variant with a payload (milliseconds) and one without are worth another try.
            later = isinstance(refusal.value, (PublishError_RateLimited, PublishError_OutboxFull))
            failure = Failure_Retry if later else Failure_Drop
            raise Err(failure("not published")) from None

    def on_timer(self, timer, missed):
        properties = Properties("text/plain", None, None, None, False, [])
        mqtt.publish(Message("check/beat", b"beat", Qos.AT_MOST_ONCE, False, properties))

    def on_event(self, event):
        pass

    def stop(self, reason):
        return None
