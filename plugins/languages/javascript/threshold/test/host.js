// The host, as far as the tests need one.
export const published = [];
export const stored = new Map();
export const settings = new Map();

export const mqtt = {
  publish: (message) => published.push(`${message.topic} ${new TextDecoder().decode(message.payload)}`),
  subscribe() {},
  unsubscribe() {},
  link: () => ({ connected: true, since: 0, queuedMessages: 0, queuedBytes: 0 }),
};
export const timers = { every: () => 1, after: () => 1, cancel() {} };
export const state = {
  get: (key) => stored.get(key),
  set: (key, value) => void stored.set(key, value),
  remove: (key) => void stored.delete(key),
  keys: () => [...stored.keys()],
};
export const host = {
  identity: () => ({ clientId: "device", plugin: "pump", version: "test", hostVersion: "test" }),
  config: (key) => settings.get(key),
  configKeys: () => [...settings.keys()],
  log() {},
  now: () => 0,
};
