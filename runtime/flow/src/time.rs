//! Points in time as flows are shown with them: RFC 3339 in UTC. Not here: reading them.

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;
/// Seconds in a day.
pub const DAY: u64 = 86_400;

/// Has the year 366 days?
pub fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

/// The point in time, in nanoseconds since 1970, by RFC 3339 in UTC and with milliseconds.
pub fn text(at: u64) -> String {
    let (seconds, millis) = (at / SECOND, at % SECOND / 1_000_000);
    let (mut days, second) = (seconds / DAY, seconds % DAY);
    let mut year = 1970;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        (days, year) = (days - length, year + 1);
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        (days, month) = (days - length, month + 1);
    }
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let day = days + 1;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}
