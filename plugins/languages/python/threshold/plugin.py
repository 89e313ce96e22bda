"""Raises an alarm when a sensor's value is over a limit, and when none comes any more."""

import json
import math

from alphorn import Drop, Plugin, Properties, after, cancel, config, log, publish, state, subscribe

KEY = "alarm"


class Threshold(Plugin):
    def start(self, info):
        self.topic = text("topic")
        self.alarm_topic = text("alarm")
        self.limit = number("limit", text("limit"))
        self.hysteresis = number("hysteresis", config("hysteresis", "0"))
        self.missing_after = number("missing_after", config("missing_after", "60"))
        # The version before, in whatever language, says how things are; else the store does.
        # It is the same JSON in every language.
        handed_over, kept = info.json(), state.get_json(KEY)
        self.alarm = handed_over or kept or {"high": False, "missing": False, "value": None}
        source = "the version before" if handed_over else "the store" if kept else "nobody"
        log.info(f"{name(self.alarm)} as {source} says")
        # Fires when nothing has come for too long.
        self.timer = None
        subscribe(self.topic)
        self.wait_for_next()

    def on_message(self, message):
        value = reading(message)
        # What is high has to come down further than it had to rise.
        high = value > (self.limit - self.hysteresis if self.alarm["high"] else self.limit)
        self.change_to({"high": high, "missing": False, "value": value})
        self.wait_for_next()

    def on_timer(self, timer, missed):
        self.change_to({**self.alarm, "missing": True})

    def stop(self, reason):
        return json.dumps(self.alarm)

    def change_to(self, alarm):
        """Keeps it, and tells of it if it is called something else now."""
        state.set_json(KEY, alarm)
        if name(alarm) != name(self.alarm):
            report = json.dumps({"alarm": name(alarm), "value": alarm["value"]})
            properties = Properties("application/json", None, None, None, False, [])
            publish(self.alarm_topic, report, properties=properties)
        # Not before: a call that fails has changed nothing.
        self.alarm = alarm

    def wait_for_next(self):
        if self.timer is not None:
            cancel(self.timer)
        self.timer = after(self.missing_after) if self.missing_after > 0 else None


def reading(message):
    try:
        value = message.json()["value"]
    except (ValueError, KeyError, TypeError) as error:
        raise Drop(f"not a reading: {error}") from None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise Drop("not a reading: `value` is no number")
    return value


def name(alarm):
    return "missing" if alarm["missing"] else "high" if alarm["high"] else "normal"


def text(key):
    value = config(key)
    if value is None:
        raise ValueError(f"config `{key}` is missing")
    return value


def number(key, value):
    try:
        parsed = float(value)
    except ValueError:
        parsed = math.nan
    if not math.isfinite(parsed):
        raise ValueError(f'config `{key}` is "{value}"; it has to be a number')
    return parsed
