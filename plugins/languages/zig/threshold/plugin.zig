//! Raises an alarm when a sensor's value is over a limit, and when none comes any more.

const std = @import("std");
const alphorn = @import("alphorn");

const key = "alarm";

/// What is kept, and handed over: the same JSON in every language.
const Alarm = struct {
    high: bool = false,
    missing: bool = false,
    /// The last value, if there was one.
    value: ?f64 = null,

    fn name(self: Alarm) []const u8 {
        return if (self.missing) "missing" else if (self.high) "high" else "normal";
    }
};

var topic: [:0]const u8 = undefined;
var alarm_topic: []const u8 = undefined;
var limit: f64 = undefined;
var hysteresis: f64 = undefined;
var missing_after: f64 = undefined;
var alarm: Alarm = .{};
/// Fires when nothing has come for too long.
var timer: ?u32 = null;

pub fn start(told: alphorn.Start) !void {
    topic = try text("topic");
    alarm_topic = try text("alarm");
    limit = try number("limit", try text("limit"));
    hysteresis = try number("hysteresis", alphorn.config("hysteresis") orelse "0");
    missing_after = try number("missing_after", alphorn.config("missing_after") orelse "60");

    // The version before, in whatever language, says how things are; else the store does.
    const in_store = try alphorn.stateGet(key);
    defer if (in_store) |bytes| alphorn.free(bytes);
    if (told.handed_over orelse in_store) |before| {
        alarm = parse(Alarm, before) catch return alphorn.fail("what was handed over or kept is no alarm", .{});
    }
    const source = if (told.handed_over != null) "the version before" else if (in_store != null) "the store" else "nobody";
    alphorn.info("{s} as {s} says", .{ alarm.name(), source });
    try alphorn.subscribe(topic, 1);
    try waitForNext();
}

pub fn onMessage(message: alphorn.Message) !void {
    const reading = parse(struct { value: f64 }, message.payload) catch |reason|
        return alphorn.drop("not a reading: {s}", .{@errorName(reason)});
    // What is high has to come down further than it had to rise.
    const high = reading.value > if (alarm.high) limit - hysteresis else limit;
    try changeTo(.{ .high = high, .value = reading.value });
    try waitForNext();
}

pub fn onTimer(_: u32, _: u32) !void {
    try changeTo(.{ .high = alarm.high, .missing = true, .value = alarm.value });
}

pub fn onStop(_: alphorn.StopReason) !void {
    var room: [256]u8 = undefined;
    alphorn.handOver(try json(&room, alarm));
}

/// Keeps it, and tells of it if it is called something else now.
fn changeTo(next: Alarm) !void {
    var room: [256]u8 = undefined;
    try alphorn.stateSet(key, try json(&room, next));
    if (!std.mem.eql(u8, next.name(), alarm.name())) {
        try alphorn.publish(alarm_topic, try json(&room, .{ .alarm = next.name(), .value = next.value }), .{});
    }
    // Not before: a call that fails has changed nothing.
    alarm = next;
}

fn waitForNext() !void {
    if (timer) |running| alphorn.cancel(running);
    timer = null;
    if (missing_after > 0) timer = try alphorn.after(@intFromFloat(@ceil(missing_after * 1000)));
}

/// Plain values only: nothing of the text is kept.
fn parse(T: type, bytes: []const u8) !T {
    const parsed = try std.json.parseFromSlice(T, std.heap.c_allocator, bytes, .{ .ignore_unknown_fields = true });
    defer parsed.deinit();
    return parsed.value;
}

fn json(room: []u8, value: anytype) ![]u8 {
    return std.fmt.bufPrint(room, "{f}", .{std.json.fmt(value, .{})});
}

fn text(name: [:0]const u8) ![:0]const u8 {
    return alphorn.config(name) orelse alphorn.fail("config `{s}` is missing", .{name});
}

fn number(name: []const u8, value: []const u8) !f64 {
    const parsed = std.fmt.parseFloat(f64, value) catch std.math.nan(f64);
    if (std.math.isFinite(parsed)) return parsed;
    return alphorn.fail("config `{s}` is \"{s}\"; it has to be a number", .{ name, value });
}

comptime {
    alphorn.plugin(@This());
}
