//! Points in time, as people write and read them: RFC 3339 in UTC, or how long ago.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
pub use netpolc_flow::time::text;
use netpolc_flow::time::{DAY, SECOND, is_leap};

/// A point in time, in nanoseconds since 1970.
pub type Nanos = u64;

/// The present.
pub fn now() -> Nanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The point in time that `text` means at `now`: 30s, 5m, 2h or 1d ago, or a time by RFC 3339.
///
/// # Errors
/// It means none, or one that is to come.
pub fn since(text: &str, now: Nanos) -> anyhow::Result<Nanos> {
    let ways = "write how long ago, such as 30s, 5m, 2h or 1d, or a time such as \
                2026-12-01T10:05:00Z";
    let ago = ago(text).and_then(|ago| now.checked_sub(u64::try_from(ago.as_nanos()).ok()?));
    let at = ago.or_else(|| point(text)).with_context(|| ways)?;
    ensure!(at <= now, "it is still to come; {ways}");
    Ok(at)
}

fn ago(text: &str) -> Option<Duration> {
    let units = [('s', 1), ('m', 60), ('h', 3600), ('d', DAY)];
    let (unit, seconds) = units.into_iter().find(|(unit, _)| text.ends_with(*unit))?;
    let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
    Some(Duration::from_secs(number.checked_mul(seconds)?))
}

/// `2026-12-01T10:05:00.5+01:00`; None where it is written otherwise.
fn point(text: &str) -> Option<Nanos> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let mut date = date.split('-').map(number);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let lengths = [31, if is_leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let length = *lengths.get(usize::try_from(month.checked_sub(1)?).ok()?)?;
    if date.next().is_some() || !(1970..=2500).contains(&year) || !(1..=length).contains(&day) {
        return None;
    }
    let zone = time.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = time.split_at(zone);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut time = time.split(':').map(number);
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    if time.next().is_some() || hour > 23 || minute > 59 || second > 60 || fraction.len() > 9 {
        return None;
    }
    let fraction = number(fraction)? * 10_u64.pow(9 - u32::try_from(fraction.len()).ok()?);
    let years: u64 = (1970..year).map(|year| if is_leap(year) { 366 } else { 365 }).sum();
    let days = years + lengths.iter().take(usize::try_from(month - 1).ok()?).sum::<u64>() + day - 1;
    let seconds = days * DAY + hour * 3600 + minute * 60 + second;
    let seconds = seconds.checked_add_signed(-offset(zone)?)?;
    seconds.checked_mul(SECOND)?.checked_add(fraction)
}

/// Seconds by which a zone is ahead: `Z`, `+01:00`.
fn offset(zone: &str) -> Option<i64> {
    let (sign, rest) = zone.split_at_checked(1)?;
    if sign.eq_ignore_ascii_case("z") {
        return rest.is_empty().then_some(0);
    }
    let (hours, minutes) = rest.split_once(':')?;
    let seconds = i64::try_from(number(hours)? * 3600 + number(minutes)? * 60).ok()?;
    (seconds < 86_400).then_some(if sign == "-" { -seconds } else { seconds })
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && text.len() <= 9;
    digits.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written() {
        let now = 1_796_090_400 * SECOND;
        for (written, read) in [
            ("2026-12-01T02:00:00Z", Some("2026-12-01T02:00:00.000Z")),
            ("2026-12-01T02:00:00.25+01:00", Some("2026-12-01T01:00:00.250Z")),
            ("2024-02-29T23:59:59-00:30", Some("2024-03-01T00:29:59.000Z")),
            ("30s", Some("2026-12-01T01:59:30.000Z")),
            ("2h", Some("2026-12-01T00:00:00.000Z")),
            ("1d", Some("2026-11-30T02:00:00.000Z")),
            ("2026-12-01T02:00:01Z", None),
            ("2023-02-29T00:00:00Z", None),
            ("2026-12-01", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-12-01T25:00:00Z", None),
            ("5", None),
            ("-5m", None),
            ("99999999999d", None),
            ("", None),
        ] {
            let found = since(written, now).ok().map(text);
            assert_eq!(found.as_deref(), read, "{written}");
        }
        assert_eq!(text(0), "1970-01-01T00:00:00.000Z");
    }
}
