"""Publishes the local time once a second."""

import re
from datetime import datetime, timedelta, timezone

from alphorn import Plugin, Refused, config, every, log, publish


class Timestamp(Plugin):
    def start(self, info):
        self.topic = config("topic", "test/date")
        qos = config("qos", "0")
        if qos not in ("0", "1"):
            raise ValueError(f'config `qos` is "{qos}"; it can be "0" or "1"')
        self.qos = int(qos)
        self.zone = zone(config("utc_offset", "+00:00"))
        every(1)

    def on_timer(self, timer, missed):
        payload = datetime.now(self.zone).strftime("%Y-%m-%dT%H:%M:%S")
        log.info(f"try to publish: {payload}")
        try:
            publish(self.topic, payload, qos=self.qos)
        except Refused as refused:
            # It is for the log: the next second brings a newer time.
            log.error(f"not published: {refused}")


def zone(text):
    """What is as far from UTC as "+09:00" or "-03:30" says."""
    match = re.fullmatch(r"([+-])([01]\d|2[0-3]):([0-5]\d)", text)
    if match is None:
        raise ValueError(f'config `utc_offset` is "{text}"; it has to be like "+09:00" or "-03:30"')
    sign, hours, minutes = match.groups()
    offset = timedelta(hours=int(hours), minutes=int(minutes))
    return timezone(-offset if sign == "-" else offset)
