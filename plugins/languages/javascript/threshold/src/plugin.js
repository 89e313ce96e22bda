// Raises an alarm when a sensor's value is over a limit, and when none comes any more.

import { after, cancel, config, Drop, log, publish, state, subscribe } from "alphorn";

const KEY = "alarm";

let settings;
/** What is kept, and handed over: the same JSON in every language. */
let alarm;
/** Fires when nothing has come for too long. */
let timer;

export function start(info) {
  settings = {
    topic: text("topic"),
    alarm: text("alarm"),
    limit: number("limit", text("limit")),
    hysteresis: number("hysteresis", config("hysteresis") ?? "0"),
    missingAfter: number("missing_after", config("missing_after") ?? "60"),
  };
  // The version before, in whatever language, says how things are; else the store does.
  const [handedOver, kept] = [info.json(), state.getJson(KEY)];
  alarm = handedOver ?? kept ?? { high: false, missing: false, value: null };
  log.info(`${name(alarm)} as ${handedOver ? "the version before" : kept ? "the store" : "nobody"} says`);
  subscribe(settings.topic);
  waitForNext();
}

export function onMessage(message) {
  const { value } = reading(message);
  const { limit, hysteresis } = settings;
  // What is high has to come down further than it had to rise.
  const high = value > (alarm.high ? limit - hysteresis : limit);
  changeTo({ high, missing: false, value });
  waitForNext();
}

export function onTimer() {
  changeTo({ ...alarm, missing: true });
}

export function stop() {
  return JSON.stringify(alarm);
}

function reading(message) {
  let read;
  try {
    read = message.json();
  } catch (error) {
    throw new Drop(`not a reading: ${error.message}`);
  }
  if (typeof read?.value !== "number") throw new Drop("not a reading: it has no number `value`");
  return read;
}

/** Keeps it, and tells of it if it is called something else now. */
function changeTo(next) {
  state.setJson(KEY, next);
  if (name(next) !== name(alarm)) {
    const report = JSON.stringify({ alarm: name(next), value: next.value });
    publish(settings.alarm, report, { properties: { contentType: "application/json" } });
  }
  // Not before: a call that fails has changed nothing.
  alarm = next;
}

function name({ high, missing }) {
  return missing ? "missing" : high ? "high" : "normal";
}

function waitForNext() {
  if (timer !== undefined) cancel(timer);
  timer = settings.missingAfter > 0 ? after(settings.missingAfter * 1000) : undefined;
}

function text(key) {
  const value = config(key);
  if (value === undefined) throw new Error(`config \`${key}\` is missing`);
  return value;
}

function number(key, value) {
  const parsed = Number(value);
  if (value.trim() === "" || !Number.isFinite(parsed)) {
    throw new Error(`config \`${key}\` is "${value}"; it has to be a number`);
  }
  return parsed;
}
