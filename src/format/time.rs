//! RFC 3339: in UTC with milliseconds, as every format here writes times, and as events bring it.

use std::borrow::Cow;

/// `2026-11-21T02:29:58.004Z` for nanoseconds since the epoch.
pub fn rfc3339_ms(time_ns: u64) -> [u8; 24] {
    let ms = time_ns / 1_000_000;
    let (days, in_day) = ((ms / 86_400_000) as i64, ms % 86_400_000);
    let (year, month, day) = civil(days);
    let mut out = *b"0000-00-00T00:00:00.000Z";
    let mut put = |at: usize, width: usize, mut value: u64| {
        for i in (at..at + width).rev() {
            out[i] = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    put(0, 4, year as u64);
    put(5, 2, month);
    put(8, 2, day);
    put(11, 2, in_day / 3_600_000);
    put(14, 2, in_day / 60_000 % 60);
    put(17, 2, in_day / 1000 % 60);
    put(20, 3, in_day % 1000);
    out
}

/// Year, month and day of a day number (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: i64) -> (i64, u64, u64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month as u64, day as u64)
}

/// A time of ISO 8601 as RFC 3339, if it can be said without guessing: `None` for anything else.
///
/// A missing offset is UTC, as services that take such times read them; a space becomes a `T`, a comma a point,
/// and an offset gets its colon. Leap seconds pass.
pub fn to_rfc3339(text: &str) -> Option<Cow<'_, str>> {
    let text = text.trim();
    let (date_time, rest) = text.split_at_checked(19)?;
    let b = date_time.as_bytes();
    let number = |from: usize, len: usize| -> Option<u64> {
        let digits = date_time.get(from..from + len)?;
        digits.bytes().all(|d| d.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let dated = b[4] == b'-' && b[7] == b'-' && matches!(b[10], b'T' | b't' | b' ');
    let timed =
        b[13] == b':' && b[16] == b':' && number(11, 2)? < 24 && number(14, 2)? < 60 && number(17, 2)? <= 60;
    if !dated || !timed || !(1..=12).contains(&month) || day == 0 || day > days_of(year, month) {
        return None;
    }
    let (fraction, offset) = match rest.strip_prefix(['.', ',']) {
        Some(rest) => rest.split_at(rest.bytes().take_while(u8::is_ascii_digit).count()),
        None => ("", rest),
    };
    if rest.starts_with(['.', ',']) && fraction.is_empty() {
        return None;
    }
    let offset = match offset {
        "" | "z" | "Z" => Cow::Borrowed("Z"),
        _ => {
            let digits = offset.strip_prefix(['+', '-'])?;
            let (hours, minutes) = match digits.len() {
                2 => (digits, "00"),
                4 => digits.split_at_checked(2)?,
                _ => digits.split_once(':')?,
            };
            let two = |t: &str, below: u8| {
                t.len() == 2 && t.parse::<u8>().is_ok_and(|n| n < below) && !t.starts_with('+')
            };
            if !two(hours, 24) || !two(minutes, 60) {
                return None;
            }
            Cow::Owned(format!("{}{hours}:{minutes}", &offset[..1]))
        }
    };
    let (date, time) = (&date_time[..10], &date_time[11..]);
    let point = if fraction.is_empty() { "" } else { "." };
    let said = format!("{date}T{time}{point}{fraction}{offset}");
    Some(if said == text { Cow::Borrowed(text) } else { Cow::Owned(said) })
}

/// Nanoseconds since the epoch of a time that [`to_rfc3339`] takes; finer digits are cut off. `None` before 1970 and
/// after 2554.
pub fn unix_ns(text: &str) -> Option<u64> {
    let said = to_rfc3339(text)?;
    let number = |from: usize, to: usize| said.get(from..to)?.parse::<i64>().ok();
    let rest = said.get(19..)?;
    let (fraction, offset) = rest.split_at(rest.find(['Z', '+', '-'])?);
    let offset = match offset.strip_prefix(['+', '-']).and_then(|digits| digits.split_once(':')) {
        Some((hours, minutes)) => {
            let seconds = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
            if offset.starts_with('-') { -seconds } else { seconds }
        }
        None => 0,
    };
    let days = day_number(number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let in_day = number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
    let seconds = u64::try_from(days * 86_400 + in_day - offset).ok()?;
    let digits = fraction.bytes().skip(1).chain(std::iter::repeat(b'0')).take(9);
    let nanos = digits.fold(0, |n, digit| n * 10 + u64::from(digit - b'0'));
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// The inverse of [`civil`].
fn day_number(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let yoe = year.rem_euclid(400);
    let doy = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    era * 146_097 + doe - 719_468
}

fn days_of(year: u64, month: u64) -> u64 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_numbers() {
        let known = 1_795_228_198_004_000_000;
        for (text, ns) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-11-21T02:29:58.004Z", known),
            ("2026-11-21 02:29:58.004", known),
            ("2026-11-21T03:59:58.004+01:30", known),
            ("2026-11-20T21:29:58.004-0500", known),
            ("2026-11-21T02:29:58.0040005678Z", known + 567),
            ("2026-11-21T02:29:58+00:00", known - 4_000_000),
            ("2000-02-29T00:00:00Z", 951_782_400_000_000_000),
            ("2016-12-31T23:59:60Z", 1_483_228_800_000_000_000),
        ] {
            assert_eq!(unix_ns(text), Some(ns), "{text}");
        }
        for none in [
            "",
            "now",
            "1795228198",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+01:00",
            "9999-12-31T23:59:59Z",
        ] {
            assert_eq!(unix_ns(none), None, "{none}");
        }
        for day in (0..80_000).step_by(7) {
            let ns = day * 86_400_000_000_000 + 86_399_999_000_000;
            assert_eq!(unix_ns(std::str::from_utf8(&rfc3339_ms(ns)).unwrap()), Some(ns));
        }
    }

    #[test]
    fn known_times() {
        for (ns, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00.000Z"),
            (1_795_228_198_004_999_999, "2026-11-21T02:29:58.004Z"),
            (4_102_444_799_999_000_000, "2099-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(std::str::from_utf8(&rfc3339_ms(ns)).unwrap(), text);
        }
    }

    #[test]
    fn what_needs_no_guess_is_made_explicit() {
        for (text, said) in [
            ("2026-11-21T02:29:58Z", "2026-11-21T02:29:58Z"),
            ("2026-11-21T02:29:58.004+01:00", "2026-11-21T02:29:58.004+01:00"),
            ("2026-11-21 02:29:58.123456", "2026-11-21T02:29:58.123456Z"),
            ("2026-11-21t02:29:58,5z", "2026-11-21T02:29:58.5Z"),
            (" 2024-02-29T23:59:60-0330 ", "2024-02-29T23:59:60-03:30"),
            ("2026-11-21T02:29:58+01", "2026-11-21T02:29:58+01:00"),
        ] {
            assert_eq!(to_rfc3339(text).as_deref(), Some(said), "{text}");
        }
        assert!(matches!(to_rfc3339("2026-11-21T02:29:58.004Z"), Some(Cow::Borrowed(_))));
    }

    #[test]
    fn the_rest_is_no_time() {
        for text in [
            "",
            "then",
            "2026-11-21",
            "2026-11-21T02:29",
            "2026-13-21T02:29:58Z",
            "2026-02-29T02:29:58Z",
            "2026-00-01T02:29:58Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21T02:60:00Z",
            "2026-11-21T02:29:61Z",
            "2026-11-21T02:29:58.Z",
            "2026-11-21T02:29:58 CET",
            "2026-11-21T02:29:58+1",
            "2026-11-21T02:29:58+24:00",
            "2026-11-21T02:29:58+01:60",
            "2026-11-21T02:29:58++1:00",
            "2026-11-21T+2:29:58Z",
            "+026-11-21T02:29:58Z",
            "2026-11-21T02:29:5éZ",
            "1795228198",
        ] {
            assert_eq!(to_rfc3339(text), None, "{text}");
        }
    }
}
