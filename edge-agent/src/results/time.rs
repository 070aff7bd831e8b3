//! RFC 3339 times as milliseconds since 1970. Refuses years before 1970 and leap seconds no more than
//! the clock does: second 60 is the first of the next minute.

use shared::model::UnixMs;

/// The moment that `text` names, as in `2026-11-24T18:40:10.250Z`; digits beyond the millisecond are
/// left out. `None` when it is not such a time.
pub(crate) fn parse_rfc3339(text: &str) -> Option<UnixMs> {
    let (date, time) = (text.get(..10)?, text.get(11..)?);
    if !matches!(text.as_bytes().get(10)?, b'T' | b't' | b' ') {
        return None;
    }
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let (clock, zone) = time.split_at_checked(8)?;
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    let (fraction_ms, zone) = fraction(zone)?;
    let valid = (1..=12).contains(&month)
        && (1..=days_in(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !valid {
        return None;
    }
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    let ms = (seconds - offset_seconds(zone)?) * 1000 + fraction_ms;
    u64::try_from(ms).ok().map(UnixMs)
}

fn number(text: &str, digits: usize) -> Option<i64> {
    let all_digits = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    if all_digits { text.parse().ok() } else { None }
}

fn numbers(text: &str, separator: char, digits: [usize; 3]) -> Option<[i64; 3]> {
    let mut parts = text.split(separator);
    let [first, second, third] = digits.map(|digits| number(parts.next()?, digits));
    let found = [first?, second?, third?];
    parts.next().is_none().then_some(found)
}

/// Milliseconds, and what follows them.
fn fraction(text: &str) -> Option<(i64, &str)> {
    let Some(rest) = text.strip_prefix('.') else { return Some((0, text)) };
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, zone) = rest.split_at_checked(end)?;
    let padded: String = digits.chars().chain("000".chars()).take(3).collect();
    (!digits.is_empty()).then_some((padded.parse().ok()?, zone))
}

fn offset_seconds(zone: &str) -> Option<i64> {
    if matches!(zone, "Z" | "z") {
        return Some(0);
    }
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let (hours, minutes) = (number(hours, 2)?, number(minutes, 2)?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

fn days_in(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_with_fractions_and_zones_are_the_moments_that_date_says() {
        // date -u -d TEXT +%s%3N
        let known = [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-11-24T18:40:10.25Z", 1_795_545_610_250),
            ("2026-11-24t19:40:10.2504+01:00", 1_795_545_610_250),
            ("2024-02-29 00:00:00Z", 1_709_164_800_000),
            ("2000-03-01T00:00:00-00:30", 951_870_600_000),
        ];
        for (text, ms) in known {
            assert_eq!(parse_rfc3339(text), Some(UnixMs(ms)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "2026",
            "2026-11-24",
            "2026-11-24T18:40:10",
            "2026-13-01T00:00:00Z",
            "2025-02-29T00:00:00Z",
            "2026-11-24T24:00:00Z",
            "2026-11-24T18:40:10.Z",
            "2026-11-24T18:40:10+1:00",
            "1969-12-31T23:59:59Z",
            "2026-11-24T18:40:10Zx",
        ] {
            assert_eq!(parse_rfc3339(text), None, "`{text}` was accepted");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[0-9T:.Zé+-]{0,30}") {
            let _ = parse_rfc3339(&text);
        }
    }
}
