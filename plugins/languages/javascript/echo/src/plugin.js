// Sends each message back on its topic with /echo behind it.

import { config, publish, subscribe } from "alphorn";

const SUFFIX = "/echo";

export function start() {
  const filter = config("filter");
  if (filter === undefined) throw new Error('config `filter` is missing; it says what to echo, like "test/#"');
  subscribe(filter);
}

export function onMessage({ topic, payload, qos, properties }) {
  // The filter may cover the echoes as well: an echo of one would never end.
  if (topic.endsWith(SUFFIX)) return;
  publish(topic + SUFFIX, payload, { qos, properties });
}
