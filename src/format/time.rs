//! RFC 3339: in UTC with milliseconds, as every format here writes times, and as others write it.

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

/// Nanoseconds since the epoch for a time in RFC 3339, whose offset it must say (`+0100` is good too). Digits beyond
/// nanoseconds are cut off; what is before 1970 or after 2554 is none.
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to).filter(|part| part.bytes().all(|b| b.is_ascii_digit()))?;
        digits.parse::<i64>().ok()
    };
    let is = |at: usize, allowed: &[u8]| text.as_bytes().get(at).is_some_and(|b| allowed.contains(b));
    let shape = is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":");
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    // The last one is a leap second.
    if !shape || !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let rest = text.get(19..)?;
    let digits = rest.strip_prefix('.').map_or("", |after| {
        let len = after.bytes().take_while(u8::is_ascii_digit).count();
        after.get(..len).unwrap_or_default()
    });
    let offset = rest.get(if rest.starts_with('.') { 1 + digits.len() } else { 0 }..)?;
    if rest.starts_with('.') && digits.is_empty() {
        return None;
    }
    let nanos =
        digits.bytes().chain(std::iter::repeat(b'0')).take(9).fold(0, |n, b| n * 10 + i64::from(b - b'0'));
    let ahead = match offset.as_bytes() {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] | [sign @ (b'+' | b'-'), h1, h2, m1, m2] => {
            let two = |a: &u8, b: &u8| {
                let digits = a.is_ascii_digit() && b.is_ascii_digit();
                digits.then(|| i64::from(a - b'0') * 10 + i64::from(b - b'0'))
            };
            let (hours, minutes) = (two(h1, h2)?, two(m1, m2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 3600 + minutes * 60) * if *sign == b'+' { 1 } else { -1 }
        }
        _ => return None,
    };
    let seconds = day_number(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - ahead;
    let seconds = u64::try_from(seconds).ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos as u64)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_others() {
        let known = 1_795_228_198_004_000_000;
        for (text, ns) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-11-21T02:29:58.004Z", known),
            ("2026-11-21t02:29:58.004z", known),
            ("2026-11-21 03:59:58.004+01:30", known),
            ("2026-11-20T21:29:58.004-0500", known),
            ("2026-11-21T02:29:58.0040005678Z", known + 567),
            ("2026-11-21T02:29:58+00:00", known - 4_000_000),
            ("2000-02-29T00:00:00Z", 951_782_400_000_000_000),
            ("2016-12-31T23:59:60Z", 1_483_228_800_000_000_000),
        ] {
            assert_eq!(parse_rfc3339(text), Some(ns), "{text}");
        }
        for bad in [
            "",
            "now",
            "1795228198",
            "2026-11-21",
            "2026-11-21T02:29:58",
            "2026-11-21T02:29Z",
            "2026-11-21T02:29:58.Z",
            "2026-11-21T02:29:58.004",
            "2026-11-21T02:29:58.004 Z",
            "2026-11-21T02:29:58.004Z ",
            "2026-11-21T02:29:58.004+1",
            "2026-11-21T02:29:58.004+24:00",
            "2026-11-21T24:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "+026-01-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "9999-12-31T23:59:59Z",
            "2026-11-21T02:29:58é",
        ] {
            assert_eq!(parse_rfc3339(bad), None, "{bad}");
        }
        for day in (0..80_000).step_by(7) {
            let ns = day * 86_400_000_000_000 + 86_399_999_000_000;
            assert_eq!(parse_rfc3339(std::str::from_utf8(&rfc3339_ms(ns)).unwrap()), Some(ns));
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
}
