//! The series that are wanted of a page in Prometheus' text format, or in OpenMetrics'.
//!
//! Source of the formats: prometheus.io/docs/instrumenting/exposition_formats, and the OpenMetrics
//! specification, section 5. What can't be read is passed over. A histogram is taken whole or not at
//! all, since a part of one says nothing.

use super::Readings;
use shared::telemetry::Series;
use std::collections::BTreeMap;

/// Series of one pod: a counter by status and two histograms.
const SERIES_MAX: usize = 64;

/// Labels of a series, and bytes of a name or value.
const LABELS_MAX: usize = 8;
const NAME_BYTES_MAX: usize = 128;

/// What the parts of a histogram are called after its own name.
const PARTS: [&str; 3] = ["_bucket", "_sum", "_count"];

/// The series of the metrics called `names`: counters and gauges by the name of their samples,
/// histograms by their own. Without names: of the first counter `…_requests_total`, and of the first
/// histogram whose name ends in `_request_duration_seconds` or speaks of latency.
/// The one that is wanted `besides` goes before them.
pub(super) fn select(page: &str, names: &[String], besides: Option<&str>) -> Readings {
    let others = if names.is_empty() { usual_names(page) } else { names.to_vec() };
    let names: Vec<String> = besides.map(str::to_owned).into_iter().chain(others).collect();
    let mut found: Vec<Readings> = vec![Readings::new(); names.len()];
    for sample in page.lines().filter_map(parse) {
        let place = names.iter().position(|name| is_of(&sample.0.name, name));
        if let Some(values) = place.and_then(|place| found.get_mut(place)) {
            values.insert(sample.0, sample.1);
        }
    }
    let mut selected = Readings::new();
    for values in found {
        if selected.len() + values.len() <= SERIES_MAX {
            selected.extend(values);
        }
    }
    selected
}

fn is_of(sample: &str, metric: &str) -> bool {
    let rest = sample.strip_prefix(metric);
    rest.is_some_and(|rest| rest.is_empty() || PARTS.contains(&rest))
}

fn usual_names(page: &str) -> Vec<String> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let types: Vec<(&str, &str)> = types.map(|(name, kind)| (name, kind.trim())).collect();
    let of_kind = |wanted: &'static str| {
        types.iter().filter(move |(_, kind)| *kind == wanted).map(|(name, _)| *name)
    };
    // OpenMetrics names the counter without what its samples end in.
    let counters = of_kind("counter").map(|name| match name.ends_with("_total") {
        true => name.to_owned(),
        false => format!("{name}_total"),
    });
    let requests = { counters }.find(|name| name.ends_with("requests_total"));
    let of_latency =
        |name: &&str| name.ends_with("_request_duration_seconds") || name.contains("latency");
    let latency = of_kind("histogram").find(of_latency).map(str::to_owned);
    requests.into_iter().chain(latency).collect()
}

/// One line: `name{label="value",…} value`, with whatever may follow.
fn parse(line: &str) -> Option<(Series, f64)> {
    let line = line.trim_start();
    let end = line.find(|c: char| c == '{' || c.is_ascii_whitespace())?;
    let (name, rest) = line.split_at_checked(end)?;
    if name.is_empty() || name.starts_with('#') || name.len() > NAME_BYTES_MAX {
        return None;
    }
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => parse_labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    let value: f64 = rest.split_ascii_whitespace().next()?.parse().ok()?;
    let series = Series { name: name.into(), labels: labels.into() };
    value.is_finite().then_some((series, value))
}

/// Labels up to the closing brace, and what follows it.
fn parse_labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, after) = rest.split_once('=')?;
        let (value, after) = parse_value(after.trim_start().strip_prefix('"')?)?;
        rest = after;
        labels.insert(name.trim().to_owned(), value);
        if labels.len() > LABELS_MAX || name.len() > NAME_BYTES_MAX {
            return None;
        }
    }
}

/// A value up to its closing quote, and what follows it.
fn parse_value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return text.get(at + 1..).map(|rest| (value, rest)),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
        if value.len() > NAME_BYTES_MAX {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: &str = "\
# HELP http_requests_total Requests.
# TYPE http_requests_total counter
http_requests_total{code=\"200\"} 1027 1395066363000
http_requests_total{code=\"4\\\"0\\n0\"} 3
# TYPE go_goroutines gauge
go_goroutines 12
# TYPE http_request_duration_seconds histogram
http_request_duration_seconds_bucket{le=\"0.1\"} 5 # {trace_id=\"a\"} 0.05
http_request_duration_seconds_bucket{le=\"+Inf\"} 6
http_request_duration_seconds_sum 1.5e0
http_request_duration_seconds_count 6
http_request_duration_seconds_created 1.7e9
# TYPE other_latency histogram
other_latency_count 1
# EOF
";

    fn selected(names: &[&str]) -> Vec<(String, f64)> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let shown = |(series, value): (Series, f64)| {
            let labels = series.labels.iter().map(|(name, value)| format!("{name}={value}"));
            (format!("{} {}", series.name, labels.collect::<String>()), value)
        };
        select(PAGE, &names, None).into_iter().map(shown).collect()
    }

    #[test]
    fn without_names_the_requests_and_their_latency_are_taken() {
        let expected = [
            ("http_request_duration_seconds_bucket le=+Inf", 6.0),
            ("http_request_duration_seconds_bucket le=0.1", 5.0),
            ("http_request_duration_seconds_count ", 6.0),
            ("http_request_duration_seconds_sum ", 1.5),
            ("http_requests_total code=200", 1027.0),
            ("http_requests_total code=4\"0\n0", 3.0),
        ];
        assert_eq!(selected(&[]), expected.map(|(name, value)| (name.to_owned(), value)));
    }

    #[test]
    fn with_names_just_those_are_taken() {
        assert_eq!(selected(&["go_goroutines"]), [("go_goroutines ".to_owned(), 12.0)]);
        assert_eq!(selected(&["other_latency", "absent"]).len(), 1);
        assert_eq!(selected(&["http_request"]), []);
        let besides = select(PAGE, &[], Some("go_goroutines"));
        assert!(besides.contains_key(&Series::new("go_goroutines")) && besides.len() == 7);
    }

    #[test]
    fn a_metric_with_too_many_series_is_left_out_whole() {
        let many: String = (0..=SERIES_MAX).map(|n| format!("a{{n=\"{n}\"}} 1\n")).collect();
        let page = format!("{many}b 1\n");
        let values = select(&page, &["a".to_owned(), "b".to_owned()], None);
        assert_eq!(values.into_keys().collect::<Vec<_>>(), [Series::new("b")]);
    }

    #[test]
    fn what_is_no_sample_is_passed_over() {
        for line in
            ["", "a", "a{", "a{b} 1", "a{b=\"c} 1", "a x", "a NaN", "{} 1", "# a 1", "a{b=\"\\"]
        {
            assert_eq!(parse(line), None, "`{line}`");
        }
    }

    proptest! {
        #[test]
        fn no_page_makes_it_panic(page in "(# TYPE )?[a-c_{}=\"\\\\ 0-9.,é\n]{0,80}") {
            let _ = select(&page, &["a".to_owned()], Some("b"));
            let _ = select(&page, &[], None);
        }
    }
}
