// Counts the seconds, and greets whoever sends a name.

import { config, every, type Message, publish, subscribe } from "alphorn";

let greeting: string;
let seconds = 0;

export function start(): void {
  greeting = config("greeting") ?? "Hello";
  subscribe("{{name}}/in");
  every(1000);
}

export function onTimer(): void {
  seconds += 1;
  publish("{{name}}/count", String(seconds));
}

export function onMessage(message: Message): void {
  publish("{{name}}/out", `${greeting}, ${message.text()}!`);
}
