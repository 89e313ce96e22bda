// Publishes the local time once a second.

import { config, every, log, publish } from "alphorn";

let topic: string;
let qos: 0 | 1;
let offset: number;

export function start(): void {
  topic = config("topic") ?? "test/date";
  const asked = config("qos") ?? "0";
  if (asked !== "0" && asked !== "1") throw new Error(`config \`qos\` is "${asked}"; it can be "0" or "1"`);
  qos = asked === "0" ? 0 : 1;
  offset = minutes(config("utc_offset") ?? "+00:00");
  every(1000);
}

export function onTimer(): void {
  const payload = new Date(Date.now() + offset * 60_000).toISOString().slice(0, 19);
  log.info(`try to publish: ${payload}`);
  try {
    publish(topic, payload, { qos });
  } catch (refused) {
    // It is for the log: the next second brings a newer time.
    log.error(`not published: ${refused}`);
  }
}

/** How far "+09:00" or "-03:30" is from UTC. */
function minutes(text: string): number {
  const match = /^([+-])(\d\d):([0-5]\d)$/.exec(text);
  if (!match) throw new Error(`config \`utc_offset\` is "${text}"; it has to be like "+09:00" or "-03:30"`);
  const [, sign, hours, rest] = match;
  return (sign === "-" ? -1 : 1) * (Number(hours) * 60 + Number(rest));
}
