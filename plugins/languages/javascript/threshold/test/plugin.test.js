import assert from "node:assert";
import { test } from "node:test";
import { published, settings } from "./host.js";
import { guest } from "../build/test/threshold.js";

test("an alarm is published", () => {
  settings.set("topic", "sensor").set("alarm", "alarm").set("limit", "30");
  guest.start({ reason: "first" });
  const payload = new TextEncoder().encode('{"value":31.5}');
  const message = { topic: "sensor", payload, qos: "at-least-once", retain: false };
  guest.onMessage({ message, attempt: 1, redelivered: false });
  assert.deepEqual(published, ['alarm {"alarm":"high","value":31.5}']);
});
