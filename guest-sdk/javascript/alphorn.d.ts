// The types of alphorn.js. What each call means is in the WIT package `alphorn:plugin`.

/** What the host calls, if the plugin's module exports it. One call at a time. */
export interface PluginModule {
  /** First: subscriptions and timers are asked for here. An error means that it can't work. */
  start?(info: StartInfo): void;
  /** Each message. `Drop` gives it up; any other error tries it again later. */
  onMessage?(message: Message): void;
  /** A timer is due; `missed` counts the periods without a call. */
  onTimer?(timer: number, missed: number): void;
  /** Something happened outside. */
  onEvent?(event: { kind: string; value: unknown }): void;
  /** Last. What it returns goes to the next version at a swap. */
  stop?(reason: "shutdown" | "swap" | "removed"): string | Uint8Array | void;
}

export interface StartInfo {
  reason: "first" | "restart" | "swap" | "rollback";
  previousVersion?: string;
  /** What the version before handed over. */
  handedOver?: Uint8Array;
  /** The same as text, or as JSON; undefined if there is nothing. */
  text(): string | undefined;
  json<T = unknown>(): T | undefined;
}

export interface Message {
  topic: string;
  payload: Uint8Array;
  qos: 0 | 1;
  retain: boolean;
  properties?: Properties;
  attempt: number;
  redelivered: boolean;
  text(): string;
  json<T = unknown>(): T;
}

export interface Properties {
  contentType?: string;
  responseTopic?: string;
  correlationData?: Uint8Array;
  /** Seconds. */
  messageExpiry?: number;
  utf8: boolean;
  userProperties: { name: string; value: string }[];
}

export interface PublishOptions {
  /** 1 unless it says otherwise. */
  qos?: 0 | 1;
  retain?: boolean;
  properties?: Partial<Properties>;
}

/** Hands a message to the host; the number names it in later events. */
export function publish(topic: string, payload: string | Uint8Array, options?: PublishOptions): number;
/** Asks for messages that match the filter; they arrive at onMessage. */
export function subscribe(filter: string, options?: { qos?: 0 | 1 }): void;
export function unsubscribe(filter: string): void;
/** The connection as the plugin sees it. */
export function link(): { connected: boolean; since: number; queuedMessages: number; queuedBytes: number };

/** Timers; the number reaches onTimer. */
export function every(milliseconds: number): number;
export function after(milliseconds: number): number;
export function cancel(timer: number): void;

/** Values that outlive restarts, new versions and power cuts. */
export const state: {
  get(key: string): Uint8Array | undefined;
  getText(key: string): string | undefined;
  getJson<T = unknown>(key: string): T | undefined;
  set(key: string, value: string | Uint8Array): void;
  setJson(key: string, value: unknown): void;
  remove(key: string): void;
  keys(prefix?: string): string[];
};

/** A value of the plugin's `[config]` table. */
export function config(key: string): string | undefined;
export function configKeys(): string[];
export function identity(): { clientId: string; plugin: string; version: string; hostVersion: string };

type Log = (...values: unknown[]) => void;
export const log: { trace: Log; debug: Log; info: Log; warn: Log; error: Log };

/** What the host refused; `code` is the WIT package's word for why. */
export class Refused extends Error {
  code: string;
  value: unknown;
}
/** Thrown by onMessage: give the message up. */
export class Drop extends Error {}
/** Thrown by onMessage: try the message again later. */
export class Retry extends Error {}

declare global {
  /** Goes to the host's log. */
  const console: { trace: Log; debug: Log; info: Log; log: Log; warn: Log; error: Log };
}
