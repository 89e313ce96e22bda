// A guest in JavaScript: echoes what arrives and publishes a beat each second.

import { publish, subscribe } from "alphorn:plugin/mqtt@0.1.0";
import { every } from "alphorn:plugin/timers@0.1.0";

export const guest = {
  start(info) {
    subscribe("check/in", "at-least-once");
    every(1000);
  },

  onMessage({ message }) {
    try {
      // One type for both directions: only the topic changes.
      publish({ ...message, topic: message.topic + "/out" });
    } catch (error) {
      // A variant with a payload (milliseconds) and one without are worth another try.
      const { tag } = error.payload;
      const later = tag === "rate-limited" || tag === "outbox-full";
      throw { tag: later ? "retry" : "drop", val: `not published: ${tag}` };
    }
  },

  onTimer(timer, missed) {
    publish({
      topic: "check/beat",
      payload: new Uint8Array([0x62, 0x65, 0x61, 0x74]),
      qos: "at-most-once",
      retain: false,
      properties: { contentType: "text/plain", utf8: false, userProperties: [] },
    });
  },

  onEvent(event) {},

  stop(reason) {},
};
