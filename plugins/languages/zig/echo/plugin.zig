//! Sends each message back on its topic with /echo behind it.

const std = @import("std");
const alphorn = @import("alphorn");

const suffix = "/echo";

pub fn start(_: alphorn.Start) !void {
    const filter = alphorn.config("filter") orelse
        return alphorn.fail("config `filter` is missing; it says what to echo, like \"test/#\"", .{});
    try alphorn.subscribe(filter, 1);
}

pub fn onMessage(message: alphorn.Message) !void {
    // The filter may cover the echoes as well: an echo of one would never end.
    if (std.mem.endsWith(u8, message.topic, suffix)) return;
    const topic = try std.mem.concat(std.heap.c_allocator, u8, &.{ message.topic, suffix });
    defer std.heap.c_allocator.free(topic);
    try alphorn.publish(topic, message.payload, .{ .qos = message.qos, .properties = message.properties });
}

comptime {
    alphorn.plugin(@This());
}
