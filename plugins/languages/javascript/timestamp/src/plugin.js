// Publishes the local time once a second.

import { config, every, log, publish } from "alphorn";

let topic, qos, offset;

export function start() {
  topic = config("topic") ?? "test/date";
  qos = Number(config("qos") ?? "0");
  if (qos !== 0 && qos !== 1) throw new Error(`config \`qos\` is ${config("qos")}; it can be "0" or "1"`);
  offset = minutes(config("utc_offset") ?? "+00:00");
  every(1000);
}

export function onTimer() {
  const payload = new Date(Date.now() + offset * 60_000).toISOString().slice(0, 19);
  log.info(`try to publish: ${payload}`);
  try {
    publish(topic, payload, { qos });
  } catch (refused) {
    // It is for the log: the next second brings a newer time.
    log.error(`not published: ${refused.message}`);
  }
}

/** How far "+09:00" or "-03:30" is from UTC. */
function minutes(text) {
  const match = /^([+-])(\d\d):([0-5]\d)$/.exec(text);
  if (!match) throw new Error(`config \`utc_offset\` is "${text}"; it has to be like "+09:00" or "-03:30"`);
  const [, sign, hours, rest] = match;
  return (sign === "-" ? -1 : 1) * (Number(hours) * 60 + Number(rest));
}
