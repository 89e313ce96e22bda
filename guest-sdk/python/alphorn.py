"""What a plugin in Python imports: `from alphorn import Plugin, publish`.

A thin layer over the WIT package `alphorn:plugin`, which says what each call means.
`alphorn build` brings it along and runs the one class of the plugin's module that is
derived from Plugin.
"""

import json
import traceback
from dataclasses import dataclass
from math import ceil

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.guest import Event, Failure_Drop, Failure_Retry, StartReason, StopReason
from wit_world.imports import host as _host
from wit_world.imports import mqtt as _mqtt
from wit_world.imports import state as _state
from wit_world.imports import timers as _timers
from wit_world.imports.host import Level
from wit_world.imports.types import Message as _Message
from wit_world.imports.types import Properties, Qos, UserProperty

__all__ = [
    "Drop", "Event", "Message", "Plugin", "Properties", "Refused", "Retry", "Start", "StartReason",
    "StopReason", "UserProperty", "after", "cancel", "config", "config_keys", "every", "identity",
    "link", "log", "now", "publish", "state", "subscribe", "unsubscribe",
]  # fmt: skip


class Refused(Exception):
    """The host refused something. `why` is the WIT package's case."""

    def __init__(self, what, why):
        self.why = why
        value = getattr(why, "value", None)
        name = type(why).__name__.rpartition("_")[2]
        super().__init__(f"{what}: {why if isinstance(why, str) else f'{name} {value or ""}'.strip()}")


class Drop(Exception):
    """Raised by on_message: give the message up."""


class Retry(Exception):
    """Raised by on_message: try the message again later.

    Other exceptions do the same, and their traceback is logged."""


# What stands at the top level of a module runs once, when the component is built, and there is
# no host then. What is logged so early waits for it.
_has_host = False
_early = []


def _meet_host():
    global _has_host
    _has_host = True
    for level, line in _early:
        _host.log(level, line)
    _early.clear()


def _ask(what, call, *arguments):
    if not _has_host:
        raise RuntimeError(
            f"{what}: there is no host yet, since a module's top level runs when it is built; do it in start"
        )
    try:
        return call(*arguments)
    except Err as refusal:
        raise Refused(what, refusal.value) from None


# Messages out, and asking for those that come in.


def publish(topic, payload, *, qos=1, retain=False, properties=None):
    """Hands a message to the host; the number names it in later events."""
    message = _Message(topic, _bytes(payload), Qos(qos), retain, properties)
    return _ask(f"publish to {topic}", _mqtt.publish, message)


def subscribe(filter, *, qos=1):
    """Asks for messages that match the filter; they arrive at on_message."""
    _ask(f"subscribe to {filter}", _mqtt.subscribe, filter, Qos(qos))


def unsubscribe(filter):
    _ask(f"unsubscribe from {filter}", _mqtt.unsubscribe, filter)


def link():
    """The connection as the plugin sees it."""
    return _ask("link", _mqtt.link)


# Calls at a time: the numbers that come back reach on_timer.


def every(seconds):
    """Starts a timer that fires each `seconds`, which may be a fraction."""
    return _ask("timer", _timers.every, ceil(seconds * 1000))


def after(seconds):
    """Starts a timer that fires once."""
    return _ask("timer", _timers.after, ceil(seconds * 1000))


def cancel(timer):
    _ask("cancel a timer", _timers.cancel, timer)


# Who and where the plugin is.


def config(key, default=None):
    """A value of the plugin's `[config]` table, as text."""
    value = _ask(f"config {key}", _host.config, key)
    return default if value is None else value


def config_keys():
    return _ask("config", _host.config_keys)


def identity():
    return _ask("identity", _host.identity)


def now():
    """Seconds since 1970 by the device's clock, as time.time() says."""
    return _ask("now", _host.now) / 1000


class _State:
    """Values that outlive restarts, new versions and power cuts."""

    def get(self, key):
        """The value's bytes, or None."""
        return _ask(f"state {key}", _state.get, key)

    def get_json(self, key, default=None):
        value = self.get(key)
        return default if value is None else json.loads(value)

    def set(self, key, value):
        _ask(f"state {key}", _state.set, key, _bytes(value))

    def set_json(self, key, value):
        self.set(key, json.dumps(value))

    def remove(self, key):
        _ask(f"state {key}", _state.remove, key)

    def keys(self, prefix=""):
        # The host answers in pages; an empty one is the end.
        keys = []
        while page := _ask(f"state {prefix}", _state.keys, prefix, keys[-1] if keys else None):
            keys += page
        return keys


state = _State()


class _Log:
    """The host's log. What is printed goes there too."""

    def trace(self, *values):
        self._say(Level.TRACE, values)

    def debug(self, *values):
        self._say(Level.DEBUG, values)

    def info(self, *values):
        self._say(Level.INFO, values)

    def warn(self, *values):
        self._say(Level.WARN, values)

    def error(self, *values):
        self._say(Level.ERROR, values)

    def _say(self, level, values):
        line = " ".join(map(str, values))
        if _has_host:
            _host.log(level, line)
        else:
            _early.append((level, line))


log = _Log()


def _bytes(value):
    if isinstance(value, str):
        return value.encode()
    # Not whatever bytes() takes: of a number it makes that many zeros.
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise TypeError(f"text or bytes are wanted, not {type(value).__name__}: str() or json.dumps() makes text of it")


# What the plugin is told.


@dataclass
class Start:
    """Why an instance starts, and what the version before handed over."""

    reason: StartReason
    previous_version: str | None
    handed_over: bytes | None

    def json(self):
        return None if self.handed_over is None else json.loads(self.handed_over)


@dataclass
class Message:
    """An inbound message."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: Properties | None
    attempt: int
    redelivered: bool

    def text(self):
        return self.payload.decode()

    def json(self):
        return json.loads(self.payload)


class Plugin:
    """What the host calls, one call at a time. The object is made anew for each start."""

    def start(self, info: Start):
        """Called first: subscriptions and timers are asked for here."""

    def on_message(self, message: Message):
        """Called for each message. Drop gives it up; any other exception tries it again."""

    def on_timer(self, timer: int, missed: int):
        """Called when a timer is due. `missed` counts the periods without a call."""

    def on_event(self, event: Event):
        """Called when something happened outside."""

    def stop(self, reason: StopReason):
        """Called last. What it returns, bytes or text, goes to the next version at a swap."""


def _summary(error):
    """One line: what, and where in the plugin that was. The log has the whole traceback."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_plugins(frame)]
    for frame in frames:
        frame.filename = _short(frame.filename)
    lines = ["Traceback (most recent call last):\n", *traceback.format_list(frames)]
    lines += traceback.format_exception_only(error)
    log.error("".join(lines).rstrip())
    what = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    return f"{what} ({frames[-1].filename}:{frames[-1].lineno})" if frames else what


def _is_plugins(frame):
    return not frame.filename.endswith("/alphorn.py")


def _short(filename):
    # The compiler sees each folder of the search path under a number: /0/plugin.py.
    first, _, rest = filename.lstrip("/").partition("/")
    return rest if first.isdigit() else filename


_CALLED = ["start", "on_message", "on_timer", "on_event", "stop"]


def _check(plugin):
    """Finds when it is built what would never be called, or not be waited for."""
    of_a_coroutine = 0x80
    for kind in plugin.__mro__[: plugin.__mro__.index(Plugin)]:
        for name, value in vars(kind).items():
            meant = next((called for called in _CALLED if _alike(called) == _alike(name)), None)
            if meant is None:
                continue
            if meant != name:
                raise SystemExit(f"{kind.__name__} has {name}, which nobody calls: did you mean {meant}?")
            if getattr(getattr(value, "__code__", None), "co_flags", 0) & of_a_coroutine:
                raise SystemExit(f"{kind.__name__}.{name} is async, and nobody would wait for it: make it a plain method")


def _alike(name):
    return name.lower().replace("_", "")


def guest_of(module):
    """What the host calls, for the plugin's module."""
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Plugin) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise SystemExit(f"{module.__name__}.py has {len(found)} classes derived from alphorn.Plugin; it needs one")
    plugin, running = found[0], None
    _check(plugin)

    # Made anew by its caller for each call, so it keeps nothing itself.
    class Guest(exports.Guest):
        def start(self, info):
            nonlocal running
            _meet_host()
            try:
                # Not before: what is made while the component is built would be in all instances.
                running = plugin()
                running.start(Start(info.reason, info.previous_version, info.handed_over))
            except Exception as error:
                raise Err(_summary(error)) from None

        def on_message(self, delivery):
            message = delivery.message
            try:
                running.on_message(
                    Message(
                        message.topic,
                        message.payload,
                        message.qos.value,
                        message.retain,
                        message.properties,
                        delivery.attempt,
                        delivery.redelivered,
                    )
                )
            except Drop as given_up:
                raise Err(Failure_Drop(str(given_up))) from None
            except Retry as later:
                raise Err(Failure_Retry(str(later))) from None
            except Exception as error:
                raise Err(Failure_Retry(_summary(error))) from None

        def on_timer(self, timer, missed):
            try:
                running.on_timer(timer, missed)
            except Exception as error:
                raise Err(_summary(error)) from None

        def on_event(self, event):
            try:
                running.on_event(event)
            except Exception as error:
                # It can't fail: what went wrong is in the log.
                _summary(error)

        def stop(self, reason):
            try:
                handed_over = running.stop(reason)
                return None if handed_over is None else _bytes(handed_over)
            except Exception as error:
                raise Err(_summary(error)) from None

    return Guest
