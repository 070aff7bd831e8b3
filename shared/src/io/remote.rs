//! Logs and commands as hub and agent speak of them with their commands, over HTTP: one page of a log a request, its
//! text as it was printed, its position in headers.
//!
//! The loop that puts pages together is the command's own: when the command ends nothing is asked for any more.

use crate::limits::LOG_LINES_MAX;
use crate::model::PodId;
use crate::wire::{CallMethod, ExecResult, LogFrom, LogPage};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Where the next page begins.
pub const CURSOR_HEADER: &str = "x-hinterland-log-cursor";

/// What more is to be said of a page: words of [`PageMarks`].
pub const MARKS_HEADER: &str = "x-hinterland-log-marks";

/// For how long a page of a log that ends here is waited for.
const FOLLOW_WAIT_MS: u32 = 20_000;

/// Between two attempts while a node can't be asked.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// Lines of a log, unless it is said how many or how old.
const LINES_DEFAULT: u32 = 100;

/// What of a log is asked for, as the query of an address.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogQuery {
    /// The last lines, so many at most; also `lines`.
    #[serde(alias = "lines")]
    pub tail: Option<u32>,
    /// None that is older than so many milliseconds.
    pub since_ms: Option<u64>,
    /// Instead: what follows on another page.
    pub cursor: Option<String>,
    /// For how long to wait for more.
    pub wait_ms: Option<u32>,
    /// The container.
    pub container: Option<String>,
}

impl LogQuery {
    /// From the query of an address, whose values need no escapes.
    ///
    /// # Errors
    /// A sentence that names what is no part of such a query.
    pub fn parse(query: &str) -> Result<Self, String> {
        let mut asked = Self::default();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let number = || value.parse::<u64>().map_err(|_| expected_number(name, value));
            let small = || value.parse::<u32>().map_err(|_| expected_number(name, value));
            match name {
                "tail" | "lines" => asked.tail = Some(small()?),
                "since_ms" => asked.since_ms = Some(number()?),
                "cursor" => asked.cursor = Some(value.to_owned()),
                "wait_ms" => asked.wait_ms = Some(small()?),
                "container" => asked.container = Some(value.to_owned()),
                _ => {
                    return Err(format!(
                        "`{name}` is unknown: expected tail, since_ms, cursor, wait_ms or container"
                    ));
                }
            }
        }
        Ok(asked)
    }

    /// The call that asks for it.
    ///
    /// # Errors
    /// A sentence, when it is no query of a log.
    pub fn call(self, pod: PodId, caller: String, bytes_max: u32) -> Result<CallMethod, String> {
        let lines_default = if self.since_ms.is_some() { LOG_LINES_MAX } else { LINES_DEFAULT };
        let from = match self.cursor {
            Some(cursor) => LogFrom::After { cursor: cursor.parse()? },
            None => LogFrom::End {
                lines: self.tail.unwrap_or(lines_default).min(LOG_LINES_MAX),
                age_ms: self.since_ms,
            },
        };
        let (container, wait_ms) = (self.container, self.wait_ms.unwrap_or(0));
        let method = CallMethod::ReadLog { pod, container, caller, from, bytes_max, wait_ms };
        method.check().map(|()| method)
    }
}

fn expected_number(name: &str, value: &str) -> String {
    format!("`{name}` is `{value}`: expected a whole number")
}

/// What is to be said of a page besides its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PageMarks {
    /// Something is missing before it.
    pub gap: bool,
    /// The log ends with it for now.
    pub is_end: bool,
    /// The pod has ended: no more will come.
    pub is_over: bool,
}

impl PageMarks {
    const WORDS: [&str; 3] = ["gap", "end", "over"];

    /// As in a header.
    #[must_use]
    pub fn to_text(self) -> String {
        let set = [self.gap, self.is_end, self.is_over].into_iter().zip(Self::WORDS);
        let words = set.filter_map(|(is_set, word)| is_set.then_some(word));
        words.collect::<Vec<_>>().join(" ")
    }

    /// From a header.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let has = |word: &str| text.split(' ').any(|found| found == word);
        Self { gap: has("gap"), is_end: has("end"), is_over: has("over") }
    }
}

impl From<&LogPage> for PageMarks {
    fn from(page: &LogPage) -> Self {
        Self { gap: page.gap, is_end: page.is_end, is_over: false }
    }
}

/// A page as it came.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReceivedPage {
    /// Its text.
    pub text: Vec<u8>,
    /// Where the next begins; absent where whoever answered knows no pages.
    pub cursor: Option<String>,
    /// What more was said.
    pub marks: PageMarks,
}

/// A command to run, as the body of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ExecBody {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Milliseconds until it is killed.
    pub timeout_ms: u32,
    /// The container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

impl ExecBody {
    /// The call that asks for it.
    ///
    /// # Errors
    /// A sentence, when it breaks a limit.
    pub fn call(self, pod: PodId, caller: String) -> Result<CallMethod, String> {
        let Self { command, timeout_ms, container } = self;
        let method = CallMethod::Exec { pod, container, caller, command, timeout_ms };
        method.check().map(|()| method)
    }
}

/// What became of a command. What is no text is shown as text all the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecAnswer {
    /// Absent where it was killed at its deadline.
    pub exit_code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it printed to standard error.
    pub stderr: String,
    /// Bytes of both that are missing.
    pub omitted_bytes: u64,
}

impl From<ExecResult> for ExecAnswer {
    fn from(result: ExecResult) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&result.stdout), text(&result.stderr));
        let ExecResult { exit_code, omitted_bytes, .. } = result;
        Self { exit_code, stdout, stderr, omitted_bytes }
    }
}

impl ExecAnswer {
    /// The exit status of the command that asked, as `timeout` has it for what was too slow.
    #[must_use]
    pub fn status(&self) -> u8 {
        let code = self.exit_code.unwrap_or(124);
        u8::try_from(code.rem_euclid(256)).unwrap_or(255)
    }
}

/// A command in a pod has ended with this status; there is nothing more to be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the command ended with status {0}")]
pub struct EndedWith(pub u8);

/// The node could not be asked, and may be later.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Unanswered(pub String);

/// What a command shows of a log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogOrder {
    /// The last lines, so many at most.
    pub tail: Option<u32>,
    /// None that is older.
    pub since: Option<Duration>,
    /// What is printed from now on as well, for so long.
    pub follow: Option<Duration>,
    /// The container.
    pub container: Option<String>,
}

impl LogOrder {
    fn first_query(&self) -> String {
        let since_ms = self.since.map(|since| since.as_millis());
        let parts = [
            self.tail.map(|tail| format!("tail={tail}")),
            since_ms.map(|since| format!("since_ms={since}")),
        ];
        self.with_container(parts.into_iter().flatten().collect())
    }

    fn query_after(&self, cursor: &str, waits: bool) -> String {
        let mut parts = vec![format!("cursor={cursor}")];
        if waits {
            parts.push(format!("wait_ms={FOLLOW_WAIT_MS}"));
        }
        self.with_container(parts)
    }

    fn with_container(&self, mut parts: Vec<String>) -> String {
        // A name of a container needs no escape; what is none is refused as it is.
        let plain = |name: &&String| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let named = self.container.as_ref().map(|name| Some(name).filter(plain));
        let named = named.map(|name| name.map_or("?", String::as_str));
        parts.extend(named.map(|name| format!("container={name}")));
        parts.join("&")
    }
}

/// Why there is no page.
#[derive(Debug)]
pub enum NoPage<E> {
    /// The node could not be asked.
    Unanswered(Unanswered),
    /// There is none.
    Other(E),
}

impl<E> From<E> for NoPage<E> {
    fn from(error: E) -> Self {
        Self::Other(error)
    }
}

/// Shows a log page by page. `fetch` gets a page by its query; where the node could not be asked a log that is followed
/// goes on later, where it was. `show` takes what is to be seen; false ends it.
///
/// # Errors
/// What `fetch` and `show` say.
pub fn show_log<E: From<Unanswered>>(
    order: &LogOrder,
    mut fetch: impl FnMut(&str) -> Result<ReceivedPage, NoPage<E>>,
    mut show: impl FnMut(&[u8]) -> Result<bool, E>,
) -> Result<(), E> {
    let begin = Instant::now();
    let is_over = || order.follow.is_none_or(|longest| begin.elapsed() >= longest);
    let mut query = order.first_query();
    let (mut is_first, mut is_silent, mut ends_line) = (true, false, true);
    loop {
        let page = match fetch(&query) {
            Ok(page) => page,
            Err(NoPage::Unanswered(error)) if !is_first && !is_over() => {
                if !std::mem::replace(&mut is_silent, true) {
                    let notice = format!("[{error}: the log goes on when it can be read again]");
                    if !show(&notice_line(&notice, ends_line))? {
                        return Ok(());
                    }
                    ends_line = true;
                }
                std::thread::sleep(RETRY_PAUSE);
                continue;
            }
            Err(NoPage::Unanswered(error)) => return Err(error.into()),
            Err(NoPage::Other(error)) => return Err(error),
        };
        (is_first, is_silent) = (false, false);
        let mut text = Vec::new();
        if page.marks.gap {
            text = notice_line("[lines are missing here: they were rotated away]", ends_line);
        }
        text.extend_from_slice(&page.text);
        ends_line = text.last().map_or(ends_line, |last| *last == b'\n');
        if !text.is_empty() && !show(&text)? {
            return Ok(());
        }
        let Some(cursor) = page.cursor else { return Ok(()) };
        let has_more = !page.marks.is_end;
        if !has_more && (page.marks.is_over || is_over()) {
            return Ok(());
        }
        query = order.query_after(&cursor, !has_more);
    }
}

fn notice_line(notice: &str, ends_line: bool) -> Vec<u8> {
    let begin = if ends_line { "" } else { "\n" };
    format!("{begin}{notice}\n").into_bytes()
}

/// A time as in `90s`, `10m`, `2h`.
///
/// # Errors
/// A sentence that says what was expected.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let unit = |suffix: &str, seconds: u64| {
        let count: u64 = text.strip_suffix(suffix)?.parse().ok()?;
        Some(Duration::from_secs(count.checked_mul(seconds)?))
    };
    let time = unit("s", 1).or_else(|| unit("m", 60)).or_else(|| unit("h", 3600));
    time.ok_or_else(|| format!("`{text}` is not a time: expected as in 90s, 10m, 2h"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str, cursor: &str, marks: &str) -> ReceivedPage {
        let (text, marks) = (text.as_bytes().to_vec(), PageMarks::parse(marks));
        ReceivedPage { text, cursor: Some(cursor.to_owned()), marks }
    }

    type Page = Result<ReceivedPage, NoPage<Unanswered>>;

    /// What is shown, and which queries were made.
    fn run(order: &LogOrder, pages: Vec<Page>) -> (String, Vec<String>) {
        let (mut shown, mut queries, mut pages) = (vec![], vec![], pages.into_iter());
        let fetch = |query: &str| {
            queries.push(query.to_owned());
            pages.next().unwrap_or_else(|| Err(NoPage::Other(Unanswered("no more".to_owned()))))
        };
        let ended = show_log(order, fetch, |text| {
            shown.extend_from_slice(text);
            Ok(true)
        });
        if let Err(error) = ended {
            shown.extend_from_slice(format!("!{error}").as_bytes());
        }
        (String::from_utf8(shown).unwrap(), queries)
    }

    fn followed() -> LogOrder {
        LogOrder { follow: Some(Duration::from_secs(3600)), ..LogOrder::default() }
    }

    #[test]
    fn pages_are_put_together_until_the_log_ends() {
        let order = LogOrder {
            tail: Some(5),
            since: Some(Duration::from_secs(60)),
            container: Some("main".to_owned()),
            ..LogOrder::default()
        };
        let (shown, queries) =
            run(&order, vec![Ok(page("a\n", "1", "")), Ok(page("b\n", "2", "end"))]);
        assert_eq!(shown, "a\nb\n");
        let expected = ["tail=5&since_ms=60000&container=main", "cursor=1&container=main"];
        assert_eq!(queries, expected);
    }

    #[test]
    fn a_followed_log_waits_for_more_says_what_is_missing_and_ends_with_its_pod() {
        let pages = vec![
            Ok(page("a", "1", "end")),
            Ok(page("b\n", "2", "gap end")),
            Ok(page("", "3", "end over")),
        ];
        let (shown, queries) = run(&followed(), pages);
        assert_eq!(shown, "a\n[lines are missing here: they were rotated away]\nb\n");
        assert_eq!(queries, ["", "cursor=1&wait_ms=20000", "cursor=2&wait_ms=20000"]);
    }

    #[test]
    fn a_node_that_can_t_be_asked_is_asked_again_for_the_same_page() {
        let silent = || Err(NoPage::Unanswered(Unanswered("node `a` is offline".to_owned())));
        let pages =
            vec![Ok(page("a\n", "1", "end")), silent(), silent(), Ok(page("b\n", "2", "over end"))];
        let (shown, queries) = run(&followed(), pages);
        let notice = "[node `a` is offline: the log goes on when it can be read again]";
        assert_eq!(shown, format!("a\n{notice}\nb\n"));
        assert_eq!(queries[1..], vec!["cursor=1&wait_ms=20000"; 3]);
        let (shown, _) = run(&followed(), vec![silent()]);
        assert_eq!(shown, "!node `a` is offline", "a first page is not waited for");
    }

    #[test]
    fn a_query_becomes_a_call_within_its_limits() {
        let pod: PodId = "default/ocr-0".parse().unwrap();
        let call = |query: LogQuery| query.call(pod.clone(), "alice".to_owned(), 100);
        let Ok(CallMethod::ReadLog { from, .. }) = call(LogQuery::default()) else { panic!() };
        assert_eq!(from, LogFrom::End { lines: 100, age_ms: None });
        let since = LogQuery { since_ms: Some(5), ..LogQuery::default() };
        let Ok(CallMethod::ReadLog { from, .. }) = call(since) else { panic!() };
        assert_eq!(from, LogFrom::End { lines: LOG_LINES_MAX, age_ms: Some(5) });
        let cursor = |text: &str| LogQuery { cursor: Some(text.into()), ..LogQuery::default() };
        assert!(call(cursor("1.2.3.4")).is_ok());
        assert!(call(cursor("x")).unwrap_err().contains("`x`"));
        let long = LogQuery { wait_ms: Some(u32::MAX), ..LogQuery::default() };
        assert!(call(long).unwrap_err().contains("wait"));
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(parse_time("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_time("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(parse_time("2h"), Ok(Duration::from_secs(7200)));
        for text in ["", "10", "m", "-1s", "1d", "99999999999999999999s", "9999999999999999999h"] {
            assert!(parse_time(text).unwrap_err().contains("90s"), "`{text}`");
        }
    }

    #[test]
    fn a_command_s_status_is_that_of_who_asked() {
        let status = |exit_code| {
            let (stdout, stderr, omitted_bytes) = (String::new(), String::new(), 0);
            ExecAnswer { exit_code, stdout, stderr, omitted_bytes }.status()
        };
        assert_eq!(
            [Some(0), Some(3), Some(137), None, Some(-1)].map(status),
            [0, 3, 137, 124, 255]
        );
    }
}
