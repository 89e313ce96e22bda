//! Counts the seconds, and greets whoever sends a name.

const std = @import("std");
const alphorn = @import("alphorn");

var greeting: []const u8 = "Hello";
var seconds: u32 = 0;

pub fn start(_: alphorn.Start) !void {
    greeting = alphorn.config("greeting") orelse greeting;
    try alphorn.subscribe("{{name}}/in", 1);
    _ = try alphorn.every(1000);
}

pub fn onTimer(_: u32, _: u32) !void {
    seconds += 1;
    var room: [32]u8 = undefined;
    const text = try std.fmt.bufPrint(&room, "{d}", .{seconds});
    try alphorn.publish("{{name}}/count", text, .{});
}

// An error tries the message again later; `alphorn.drop` gives it up.
pub fn onMessage(message: alphorn.Message) !void {
    var room: [256]u8 = undefined;
    const text = std.fmt.bufPrint(&room, "{s}, {s}!", .{ greeting, message.payload }) catch
        return alphorn.drop("the name is too long", .{});
    try alphorn.publish("{{name}}/out", text, .{});
}

comptime {
    alphorn.plugin(@This());
}
