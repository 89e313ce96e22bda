"""Plays the host for one guest, in memory: python run.py COMPONENT

Starts it, lets its timer fire, and, if it subscribed, delivers a message whose
echo has to come back unchanged and whose refusals have to come back as failures.
"""

import sys

from wasmtime import Engine, Store, WasiConfig
from wasmtime.component import Component, Linker, Record, Variant

PACKAGE, VERSION = "alphorn:plugin", "0.1.0"

# JavaScript and Python import all of them, whatever they use.
FUNCTIONS = {
    "mqtt": "publish subscribe unsubscribe link",
    "timers": "every after cancel",
    "state": "get set remove keys",
    "host": "identity config config-keys log now",
}


class Host:
    def __init__(self):
        self.filters, self.periods, self.published = [], [], []
        self.refusal = None

    def publish(self, _store, message):
        if self.refusal:
            return self.refusal
        self.published.append(message)
        return len(self.published)

    def subscribe(self, _store, filter, qos):
        self.filters.append((filter, qos))

    def every(self, _store, period):
        self.periods.append(period)
        return len(self.periods)

    def config(self, _store, key):
        return None

    def log(self, _store, level, text):
        pass

    def add_to(self, linker):
        with linker.root() as root:
            for interface, names in FUNCTIONS.items():
                with root.add_instance(f"{PACKAGE}/{interface}@{VERSION}") as instance:
                    for name in names.split():
                        instance.add_func(name, getattr(self, name, unexpected))


def unexpected(*_arguments):
    raise NotImplementedError("no guest here calls this")


def instantiate(path, host):
    engine = Engine()
    linker, store = Linker(engine), Store(engine)
    component = Component.from_file(engine, path)
    store.set_wasi(WasiConfig())
    linker.add_wasip2()
    host.add_to(linker)
    instance = linker.instantiate(store, component)
    guest = instance.get_export_index(store, f"{PACKAGE}/guest@{VERSION}")

    def call(name, *arguments):
        function = instance.get_func(store, instance.get_export_index(store, name, guest))
        try:
            return function(store, *arguments)
        finally:
            function.post_return(store)

    return call


def record(fields):
    result = Record()
    vars(result).update(fields)
    return result


def message(topic):
    properties = {
        "content-type": "text/plain",
        "response-topic": None,
        "correlation-data": b"\x00\xff",
        "message-expiry": 60,
        "utf8": True,
        "user-properties": [record({"name": "k", "value": v}) for v in ("1", "2")],
    }
    return record({
        "topic": topic,
        "payload": bytes(range(256)),
        "qos": "at-least-once",
        "retain": False,
        "properties": record(properties),
    })


def check(what, found, wanted):
    if found != wanted:
        sys.exit(f"{what}: {found!r} instead of {wanted!r}")


def main(path):
    host = Host()
    call = instantiate(path, host)

    info = {"reason": "first", "previous-version": None, "handed-over": None}
    check("start", call("start", record(info)), None)
    check("periods", host.periods, [1000])
    check("on-event", call("on-event", Variant("link-up", True)), None)
    check("on-timer", call("on-timer", 1, 0), None)
    check("messages published by the timer", len(host.published), 1)

    if host.filters:
        check("filters", host.filters, [("check/in", "at-least-once")])
        delivery = record({"message": message("check/in"), "attempt": 1, "redelivered": False})
        check("on-message", call("on-message", delivery), None)
        check("echo", host.published[1:] == [message("check/in/out")], True)

        for refusal, failure in [
            (Variant("rate-limited", 250), "retry"),
            (Variant("outbox-full"), "retry"),
            (Variant("not-granted", "no"), "drop"),
        ]:
            host.refusal = refusal
            check(f"on-message, {refusal.tag}", call("on-message", delivery).tag, failure)

    check("stop", call("stop", "shutdown"), None)


if __name__ == "__main__":
    main(sys.argv[1])
