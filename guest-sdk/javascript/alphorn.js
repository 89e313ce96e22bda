// What a plugin in JavaScript or TypeScript imports: `import { publish } from "alphorn"`.
//
// A thin layer over the WIT package `alphorn:plugin`, which says what each call means; the
// types are in alphorn.d.ts. `alphorn build` brings it along and calls `plugin` (below) with
// what the plugin's module exports: start, onMessage, onTimer, onEvent, stop.

import * as host from "alphorn:plugin/host@0.1.0";
import * as mqtt from "alphorn:plugin/mqtt@0.1.0";
import * as store from "alphorn:plugin/state@0.1.0";
import * as timers from "alphorn:plugin/timers@0.1.0";

// Messages out, and asking for those that come in.

export function publish(topic, payload, { qos = 1, retain = false, properties } = {}) {
  const message = { topic, payload: bytes(payload), qos: QOS[qos] ?? qos, retain, properties: filled(properties) };
  return asked(`publish to ${topic}`, () => mqtt.publish(message));
}

export function subscribe(filter, { qos = 1 } = {}) {
  asked(`subscribe to ${filter}`, () => mqtt.subscribe(filter, QOS[qos] ?? qos));
}

export function unsubscribe(filter) {
  asked(`unsubscribe from ${filter}`, () => mqtt.unsubscribe(filter));
}

export function link() {
  return asked("link", () => mqtt.link());
}

const QOS = { 0: "at-most-once", 1: "at-least-once" };

// Calls at a time: the numbers that come back reach onTimer.

export function every(milliseconds) {
  return asked("timer", () => timers.every(Math.ceil(milliseconds)));
}

export function after(milliseconds) {
  return asked("timer", () => timers.after(Math.ceil(milliseconds)));
}

export function cancel(timer) {
  asked("cancel a timer", () => timers.cancel(timer));
}

// Values that outlive restarts, new versions and power cuts.

export const state = {
  get: (key) => asked(`state ${key}`, () => store.get(key)) ?? undefined,
  getText: (key) => textIfAny(state.get(key)),
  getJson: (key) => jsonIfAny(state.getText(key)),
  set: (key, value) => asked(`state ${key}`, () => store.set(key, bytes(value))),
  setJson: (key, value) => state.set(key, JSON.stringify(value)),
  remove: (key) => asked(`state ${key}`, () => store.remove(key)),
  keys(prefix = "") {
    // The host answers in pages; an empty one is the end.
    const keys = [];
    for (;;) {
      const page = asked(`state ${prefix}`, () => store.keys(prefix, keys.at(-1) ?? null));
      if (page.length === 0) return keys;
      keys.push(...page);
    }
  },
};

// Who and where the plugin is.

export function config(key) {
  return asked(`config ${key}`, () => host.config(key)) ?? undefined;
}

export function configKeys() {
  return asked("config", () => host.configKeys());
}

export function identity() {
  return asked("identity", () => host.identity());
}

// The host's log. `console` goes there too.

export const log = {};
for (const level of ["trace", "debug", "info", "warn", "error"]) {
  log[level] = (...values) => {
    const line = [level, values.map(words).join(" ")];
    if (hasHost) host.log(...line);
    else early.push(line);
  };
}
globalThis.console = { ...globalThis.console, ...log, log: log.info };

function words(value) {
  if (value instanceof Error) return described(value);
  if (typeof value === "string") return value;
  try {
    return JSON.stringify(value, plain) ?? String(value);
  } catch {
    // What contains itself, for one. A line in the log is no reason to fail.
    return String(value);
  }
}

/** Of what JSON knows nothing, or would say at length. */
function plain(_key, value) {
  if (typeof value === "bigint") return String(value);
  if (value instanceof Error) return String(value);
  if (value instanceof Map || value instanceof Set || ArrayBuffer.isView(value)) return [...value];
  return value;
}

/**
 * What stands at the top level of a module runs once, when the component is built, and there is
 * no host then.
 */
let hasHost = false;

/** What was logged so early. */
const early = [];

function meetHost() {
  if (hasHost) return;
  hasHost = true;
  for (const [level, line] of early.splice(0)) host.log(level, line);
}

// Errors.

/** What the host refused. `code` is the WIT package's word for why, `value` what comes with it. */
export class Refused extends Error {
  constructor(what, { tag, val }) {
    super(`${what}: ${typeof val === "string" ? val : tag}`);
    this.name = "Refused";
    this.code = tag;
    this.value = val;
  }
}

/** Thrown by onMessage: give the message up. */
export class Drop extends Error {
  name = "Drop";
}

/** Thrown by onMessage: try the message again later. Other errors do the same, and log their stack. */
export class Retry extends Error {
  name = "Retry";
}

function asked(what, call) {
  if (!hasHost) {
    throw new Error(`${what}: there is no host yet, since a module's top level runs when it is built; do it in start`);
  }
  try {
    return call();
  } catch (error) {
    const payload = error?.payload ?? error;
    if (payload instanceof Error) throw payload;
    throw new Refused(what, typeof payload === "string" ? { tag: payload } : payload);
  }
}

/** Message and stack, with the lines of the sources: `alphorn build` leaves a table of them. */
function described(error) {
  const { files = [], lines = [] } = globalThis.alphornLines ?? {};
  const stack = (error.stack ?? "").trimEnd().split("\n").filter((line) => line.trim() !== "");
  const frames = stack.map((frame) =>
    frame.replace(/\(?[^\s()]*?:(\d+)(:\d+)?\)?$/, (place, line) => {
      const [file, source] = lines[line - 1] ?? [];
      return files[file] === undefined ? place : `(${files[file]}:${source})`;
    }),
  );
  // Of this layer's own frames nobody learns anything.
  return [String(error), ...frames.filter((frame) => !frame.includes("build/alphorn/"))].join("\n");
}

/** One line for who called: what, and where if that is known. */
function summary(error) {
  if (!(error instanceof Error)) return words(error);
  const place = described(error).match(/\(([^()]+:\d+)\)/);
  return place ? `${error} (${place[1]})` : String(error);
}

// Bytes and text. QuickJS has neither TextEncoder nor TextDecoder.

function bytes(value) {
  if (value instanceof Uint8Array) return value;
  if (value instanceof ArrayBuffer) return new Uint8Array(value);
  if (ArrayBuffer.isView(value)) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  if (typeof value === "function" || (typeof value === "object" && value !== null)) {
    throw new TypeError("text or bytes are wanted, not an object: JSON.stringify makes text of one");
  }
  const binary = unescape(encodeURIComponent(String(value ?? "")));
  const made = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) made[i] = binary.charCodeAt(i);
  return made;
}

function text(array) {
  let binary = "";
  // In pieces: the arguments of a call are limited.
  for (let i = 0; i < array.length; i += 4096) {
    binary += String.fromCharCode.apply(null, array.subarray(i, i + 4096));
  }
  return decodeURIComponent(escape(binary));
}

const textIfAny = (array) => (array === undefined ? undefined : text(array));
const jsonIfAny = (string) => (string === undefined ? undefined : JSON.parse(string));

/** All properties, as the WIT package has them. */
function filled(properties) {
  if (properties === undefined || properties === null) return undefined;
  return { utf8: false, userProperties: [], ...properties };
}

/** An inbound message: the WIT package's, and its payload as text or JSON. */
class Message {
  constructor({ message, attempt, redelivered }) {
    Object.assign(this, message, { qos: message.qos === QOS[0] ? 0 : 1, attempt, redelivered });
  }
  text() {
    return text(this.payload);
  }
  json() {
    return JSON.parse(this.text());
  }
}

/**
 * Else each start on each device would see the same numbers, those of the build: QuickJS is put
 * into the component with its seed. Not for secrets.
 */
function seedRandom() {
  let seed = 0;
  const { clientId, plugin } = host.identity();
  for (const character of `${clientId} ${plugin} ${host.now()}`) {
    seed = (Math.imul(seed, 31) + character.codePointAt(0)) | 0;
  }
  // mulberry32, twice for the 53 bits of a number.
  const next = () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), seed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  };
  Math.random = () => ((next() >>> 5) * 0x4000000 + (next() >>> 6)) / 2 ** 53;
}

/** What a plugin's module may export. */
const CALLED = ["start", "onMessage", "onTimer", "onEvent", "stop"];

/** Finds when it is built what would never be called, or not be waited for. */
function check(module) {
  const alike = (name) => name.toLowerCase().replaceAll("_", "");
  for (const [name, value] of Object.entries(module)) {
    const meant = CALLED.find((called) => alike(called) === alike(name));
    if (meant === undefined) continue;
    if (meant !== name) throw new Error(`the plugin exports ${name}, which nobody calls: did you mean ${meant}?`);
    if (typeof value !== "function") throw new Error(`${name} has to be a function`);
    if (value.constructor.name === "AsyncFunction") throw new Error(`${name} is async, and ${NOT_WAITED_FOR}`);
  }
  if (!CALLED.some((name) => name !== "stop" && module[name])) {
    const hint = module.default ? "; a default export is not looked into" : "";
    throw new Error(`the plugin exports none of start, onMessage, onTimer, onEvent${hint}`);
  }
}

const NOT_WAITED_FOR = "nobody would wait for it: make it a plain function";

/** What the host calls, from what a plugin's module exports. */
export function plugin(module) {
  if (module.guest) return module.guest;
  check(module);
  const { start, onMessage, onTimer, onEvent, stop } = module;
  /** Logs the stack of what was not foreseen; `failure` makes of it what the host expects. */
  const guarded = (call, failure) => {
    try {
      meetHost();
      const result = call();
      if (typeof result?.then === "function") throw new Error(`it returned a promise, and ${NOT_WAITED_FOR}`);
      return result;
    } catch (error) {
      if (error instanceof Error && !(error instanceof Drop || error instanceof Retry)) log.error(error);
      throw failure(error);
    }
  };
  return {
    start(info) {
      meetHost();
      seedRandom();
      const { reason, previousVersion, handedOver } = info;
      const handed = handedOver ?? undefined;
      const told = {
        reason,
        previousVersion: previousVersion ?? undefined,
        handedOver: handed,
        text: () => textIfAny(handed),
        json: () => jsonIfAny(textIfAny(handed)),
      };
      guarded(() => start?.(told), summary);
    },
    onMessage(delivery) {
      const failure = (error) => ({
        tag: error instanceof Drop ? "drop" : "retry",
        val: error instanceof Drop || error instanceof Retry ? error.message : summary(error),
      });
      guarded(() => onMessage?.(new Message(delivery)), failure);
    },
    onTimer(timer, missed) {
      guarded(() => onTimer?.(timer, missed), summary);
    },
    onEvent(event) {
      // It can't fail: what went wrong is in the log.
      try {
        guarded(() => onEvent?.({ kind: event.tag, value: event.val }), summary);
      } catch {}
    },
    stop(reason) {
      const handedOver = guarded(() => stop?.(reason), summary) ?? null;
      return handedOver === null ? null : guarded(() => bytes(handedOver), summary);
    },
  };
}
