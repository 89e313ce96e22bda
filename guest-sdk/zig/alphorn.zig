//! What a plugin in Zig imports: the layer for C in the words of Zig. `alphorn.c` is all of
//! that layer and of the bindings below it; wit.h says what each call means.
//!
//!     comptime {
//!         alphorn.plugin(@This());
//!     }
//!
//! The file has the functions start, onMessage, onTimer, onEvent and onStop as far as it needs
//! them; only start has to be there. An error of Zig has no words: `fail` and `drop` keep some
//! for the host's log.

const std = @import("std");

/// The layer for C, as `alphorn build` translates it.
pub const c = @import("c");

/// What a failing call ends with. Its words are kept until the next one.
pub const Error = error{ Refused, Dropped };

pub const Start = struct {
    reason: c.exports_alphorn_plugin_guest_start_reason_t,
    /// What the version before handed over.
    handed_over: ?[]const u8,
};

/// An inbound message. Its parts are good until the call ends.
pub const Message = struct {
    topic: []const u8,
    payload: []const u8,
    qos: u1,
    retain: bool,
    attempt: u32,
    redelivered: bool,
    /// MQTT 5's, to be looked at or passed on.
    properties: c.alphorn_plugin_types_option_properties_t,
};

pub const Event = c.exports_alphorn_plugin_guest_event_t;
pub const StopReason = c.exports_alphorn_plugin_guest_stop_reason_t;

var kept: [512]u8 = undefined;
var kept_words: [*:0]const u8 = "";

/// Keeps the words; what is too long is cut off.
fn keep(comptime format: []const u8, values: anytype) void {
    const room = kept[0 .. kept.len - 1];
    const text = std.fmt.bufPrint(room, format, values) catch room;
    kept[text.len] = 0;
    kept_words = @ptrCast(&kept);
}

/// What to return when something failed: a message is tried again, a start is given up.
pub fn fail(comptime format: []const u8, values: anytype) Error {
    keep(format, values);
    return error.Refused;
}

/// In onMessage: gives the message up.
pub fn drop(comptime format: []const u8, values: anytype) Error {
    keep(format, values);
    return error.Dropped;
}

fn check(words: [*c]const u8) Error!void {
    if (words != null) return fail("{s}", .{std.mem.span(words)});
}

/// Why it failed: its own words if it is an error of this layer.
fn wordsOf(reason: anyerror) [*c]const u8 {
    if (reason != error.Refused and reason != error.Dropped) keep("{s}", .{@errorName(reason)});
    return kept_words;
}

/// What a message may have beside topic and payload.
pub const Publish = struct {
    qos: u1 = 1,
    retain: bool = false,
    properties: c.alphorn_plugin_types_option_properties_t = .{},
};

/// Hands a message to the host.
pub fn publish(topic: []const u8, payload: []const u8, how: Publish) Error!void {
    // It is only read.
    const message: c.alphorn_plugin_types_message_t = .{
        .topic = .{ .ptr = @constCast(topic.ptr), .len = topic.len },
        .payload = .{ .ptr = @constCast(payload.ptr), .len = payload.len },
        .qos = how.qos,
        .retain = how.retain,
        .properties = how.properties,
    };
    return check(c.alphorn_publish_message(&message));
}

pub fn subscribe(filter: [:0]const u8, qos: u1) Error!void {
    return check(c.alphorn_subscribe(filter.ptr, qos));
}

pub fn unsubscribe(filter: [:0]const u8) Error!void {
    return check(c.alphorn_unsubscribe(filter.ptr));
}

/// Timers, in milliseconds. The number reaches onTimer.
pub fn every(period: u32) Error!u32 {
    var timer: u32 = undefined;
    try check(c.alphorn_every(period, &timer));
    return timer;
}

pub fn after(delay: u32) Error!u32 {
    var timer: u32 = undefined;
    try check(c.alphorn_after(delay, &timer));
    return timer;
}

pub fn cancel(timer: u32) void {
    c.alphorn_cancel(timer);
}

/// A value of the plugin's `[config]` table. It stays for as long as the instance does.
pub fn config(key: [:0]const u8) ?[:0]const u8 {
    const value = c.alphorn_config(key.ptr);
    return if (value == null) null else std.mem.span(value);
}

/// Durable state. What it finds is for `free`.
pub fn stateGet(key: [:0]const u8) Error!?[]u8 {
    var value: [*c]u8 = null;
    var length: usize = 0;
    try check(c.alphorn_state_get(key.ptr, &value, &length));
    return if (value == null) null else value[0..length];
}

pub fn stateSet(key: [:0]const u8, value: []const u8) Error!void {
    return check(c.alphorn_state_set(key.ptr, value.ptr, value.len));
}

pub fn stateRemove(key: [:0]const u8) Error!void {
    return check(c.alphorn_state_remove(key.ptr));
}

pub fn free(value: []u8) void {
    std.c.free(value.ptr);
}

/// In onStop: what the next version gets. It is copied.
pub fn handOver(value: []const u8) void {
    c.alphorn_hand_over(value.ptr, value.len);
}

/// Milliseconds since 1970 by the device's clock.
pub fn now() f64 {
    return c.alphorn_now();
}

/// Lines of the host's log.
pub fn info(comptime format: []const u8, values: anytype) void {
    log(c.ALPHORN_PLUGIN_HOST_LEVEL_INFO, format, values);
}

pub fn warn(comptime format: []const u8, values: anytype) void {
    log(c.ALPHORN_PLUGIN_HOST_LEVEL_WARN, format, values);
}

pub fn err(comptime format: []const u8, values: anytype) void {
    log(c.ALPHORN_PLUGIN_HOST_LEVEL_ERROR, format, values);
}

fn log(level: c.alphorn_plugin_host_level_t, comptime format: []const u8, values: anytype) void {
    var room: [512]u8 = undefined;
    const text = std.fmt.bufPrint(&room, format, values) catch &room;
    var line: c.wit_string_t = .{ .ptr = text.ptr, .len = text.len };
    c.alphorn_plugin_host_log(level, &line);
}

/// Lets the host call the functions of the file.
pub fn plugin(comptime Plugin: type) void {
    const Exports = struct {
        fn start(told: [*c]const c.alphorn_start_t) callconv(.c) [*c]const u8 {
            const handed_over = told.*.handed_over;
            Plugin.start(.{
                .reason = told.*.reason,
                .handed_over = if (handed_over == null) null else handed_over[0..told.*.handed_over_length],
            }) catch |reason| return wordsOf(reason);
            return null;
        }

        fn onMessage(message: [*c]const c.alphorn_message_t) callconv(.c) c.alphorn_outcome_t {
            const whole = message.*.whole;
            Plugin.onMessage(.{
                .topic = std.mem.span(message.*.topic),
                .payload = message.*.payload[0..message.*.length],
                .qos = @intCast(message.*.qos),
                .retain = message.*.retain,
                .attempt = message.*.attempt,
                .redelivered = message.*.redelivered,
                .properties = whole.*.properties,
            }) catch |reason| {
                const words = wordsOf(reason);
                return if (reason == error.Dropped) c.alphorn_drop(words) else c.alphorn_retry(words);
            };
            return c.alphorn_handled();
        }

        fn onTimer(timer: u32, missed: u32) callconv(.c) [*c]const u8 {
            Plugin.onTimer(timer, missed) catch |reason| return wordsOf(reason);
            return null;
        }

        fn onEvent(event: [*c]const Event) callconv(.c) void {
            Plugin.onEvent(event.*);
        }

        fn onStop(reason: StopReason) callconv(.c) [*c]const u8 {
            Plugin.onStop(reason) catch |why| return wordsOf(why);
            return null;
        }
    };
    @export(&Exports.start, .{ .name = "alphorn_start" });
    if (@hasDecl(Plugin, "onMessage")) @export(&Exports.onMessage, .{ .name = "alphorn_on_message" });
    if (@hasDecl(Plugin, "onTimer")) @export(&Exports.onTimer, .{ .name = "alphorn_on_timer" });
    if (@hasDecl(Plugin, "onEvent")) @export(&Exports.onEvent, .{ .name = "alphorn_on_event" });
    if (@hasDecl(Plugin, "onStop")) @export(&Exports.onStop, .{ .name = "alphorn_on_stop" });
}
