// Counts the seconds, and greets whoever sends a name.

import { config, every, publish, subscribe } from "alphorn";

let greeting;
let seconds = 0;

export function start() {
  greeting = config("greeting") ?? "Hello";
  subscribe("{{name}}/in");
  every(1000);
}

export function onTimer() {
  seconds += 1;
  publish("{{name}}/count", String(seconds));
}

export function onMessage(message) {
  publish("{{name}}/out", `${greeting}, ${message.text()}!`);
}
