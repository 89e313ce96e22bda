//! Publishes the local time once a second.

const std = @import("std");
const alphorn = @import("alphorn");

var topic: []const u8 = undefined;
var qos: u1 = 0;
/// Seconds from UTC.
var offset: i64 = 0;

pub fn start(_: alphorn.Start) !void {
    topic = alphorn.config("topic") orelse "test/date";
    qos = std.fmt.parseInt(u1, alphorn.config("qos") orelse "0", 10) catch
        return alphorn.fail("config `qos` can be \"0\" or \"1\"", .{});
    offset = offsetOf(alphorn.config("utc_offset") orelse "+00:00") orelse
        return alphorn.fail("config `utc_offset` has to be like \"+09:00\" or \"-03:30\"", .{});
    _ = try alphorn.every(1000);
}

pub fn onTimer(_: u32, _: u32) !void {
    const seconds = @as(i64, @intFromFloat(@divFloor(alphorn.now(), 1000))) + offset;
    const date: std.time.epoch.EpochSeconds = .{ .secs = @intCast(@max(seconds, 0)) };
    const year = date.getEpochDay().calculateYearDay();
    const month = year.calculateMonthDay();
    const day = date.getDaySeconds();
    var room: [32]u8 = undefined;
    const text = try std.fmt.bufPrint(&room, "{d:0>4}-{d:0>2}-{d:0>2}T{d:0>2}:{d:0>2}:{d:0>2}", .{
        year.year,             month.month.numeric(),    month.day_index + 1,
        day.getHoursIntoDay(), day.getMinutesIntoHour(), day.getSecondsIntoMinute(),
    });
    alphorn.info("try to publish: {s}", .{text});
    // A refusal is for the log: the next second brings a newer time.
    try alphorn.publish(topic, text, .{ .qos = qos });
}

/// Of "+09:00" or "-03:30"; null if it is not like that.
fn offsetOf(text: []const u8) ?i64 {
    if (text.len != 6 or text[3] != ':') return null;
    const hours = two(text[1..3]) orelse return null;
    const minutes = two(text[4..6]) orelse return null;
    if (hours > 23 or minutes > 59) return null;
    const sign: i64 = switch (text[0]) {
        '+' => 1,
        '-' => -1,
        else => return null,
    };
    return sign * 60 * (hours * 60 + minutes);
}

fn two(digits: []const u8) ?i64 {
    for (digits) |digit| if (!std.ascii.isDigit(digit)) return null;
    return std.fmt.parseInt(i64, digits, 10) catch null;
}

comptime {
    alphorn.plugin(@This());
}
