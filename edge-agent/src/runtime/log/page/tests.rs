//! Pages of logs: no line twice, none left out unseen.

use super::super::super::cri::log::{self as container_log};
use super::super::RotatingLog;
use super::*;
use std::fs;

/// A folder of pods with one pod, and a reader of its log.
struct Bench {
    temporary: tempfile::TempDir,
    pod: PodId,
    bytes_max: u32,
}

impl Bench {
    fn new(bytes_max: u32) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let pod: PodId = "default/ocr-0".parse().unwrap();
        PodFolder::of(temporary.path(), &pod).create().unwrap();
        Self { temporary, pod, bytes_max }
    }

    fn folder(&self) -> PathBuf {
        PodFolder::of(self.temporary.path(), &self.pod).log()
    }

    fn log(&self, files_max: u32) -> RotatingLog {
        RotatingLog::new(self.folder(), 4096, files_max)
    }

    fn page(&self, from: LogFrom) -> LogPage {
        let page =
            read_page(self.temporary.path(), (&self.pod, None), &from, self.bytes_max).unwrap();
        assert!(page.text.len() <= self.bytes_max as usize);
        page
    }

    /// Everything from there to the end.
    fn rest(&self, from: LogFrom) -> (String, LogCursor) {
        let mut page = self.page(from);
        let mut text = page.text.to_vec();
        for _ in 0..100_000 {
            if page.is_end {
                return (String::from_utf8(text).unwrap(), page.next);
            }
            page = self.page(LogFrom::After { cursor: page.next });
            assert!(!page.gap);
            text.extend_from_slice(&page.text);
        }
        panic!("the log has no end");
    }

    /// As containerd writes it, a line a second from 1970 on.
    fn contain(&self, numbers: std::ops::Range<u32>) {
        let mut text =
            fs::read_to_string(container_log::path(&self.folder(), 0)).unwrap_or_default();
        for n in numbers {
            let (minute, second) = (n / 60, n % 60);
            let time = format!("1970-01-01T00:{minute:02}:{second:02}.5Z");
            // Every third comes in two parts.
            match n % 3 {
                0 => text += &format!("{time} stdout P li\n{time} stdout F ne {n}\n"),
                _ => text += &format!("{time} stderr F line {n}\n"),
            }
        }
        fs::write(container_log::path(&self.folder(), 0), text).unwrap();
    }
}

fn lines(numbers: std::ops::Range<u32>) -> String {
    numbers.map(|n| format!("line {n}\n")).collect()
}

fn end(count: u32) -> LogFrom {
    LogFrom::End { lines: count, age_ms: None }
}

#[test]
fn pages_of_any_size_give_every_line_once_over_rotated_files() {
    for bytes_max in [1, 7, 100, 5_000, 100_000] {
        let bench = Bench::new(bytes_max);
        let mut log = bench.log(5);
        (0..1000).for_each(|n| log.append(format!("line {n}\n").as_bytes()));
        assert_eq!(bench.rest(end(900)).0, lines(100..1000));
        assert_eq!(bench.rest(end(2)).0, lines(998..1000));
        assert_eq!(bench.rest(end(0)).0, "");
        assert_eq!(bench.rest(end(u32::MAX)).0, lines(0..1000));
    }
}

#[test]
fn who_follows_over_rotations_misses_no_line_and_reads_none_twice() {
    let bench = Bench::new(100_000);
    let mut log = bench.log(3);
    let (mut text, mut cursor) = bench.rest(end(u32::MAX));
    for n in 0..3000 {
        log.append(format!("line {n}\n").as_bytes());
        // A rotation comes every 450 lines or so.
        if n % 97 == 0 {
            let (more, next) = bench.rest(LogFrom::After { cursor });
            (text, cursor) = (text + &more, next);
        }
    }
    text += &bench.rest(LogFrom::After { cursor }).0;
    assert_eq!(text, lines(0..3000));
}

#[test]
fn what_was_rotated_away_is_said_to_be_missing() {
    let bench = Bench::new(100_000);
    let mut log = bench.log(2);
    log.append(b"line 0\n");
    let (_, cursor) = bench.rest(end(9));
    (1..2000).for_each(|n| log.append(format!("line {n}\n").as_bytes()));
    let page = bench.page(LogFrom::After { cursor });
    assert!(page.gap);
    let text = String::from_utf8(page.text.to_vec()).unwrap();
    assert!(text.ends_with("line 1999\n") && text.starts_with("line 1"), "{text}");
    assert!(!bench.page(LogFrom::After { cursor: page.next }).gap, "it is said once");
}

#[test]
fn a_file_that_was_replaced_or_cut_under_the_same_inode_is_told_by_what_it_holds() {
    let bench = Bench::new(100_000);
    let path = bench.folder().join("0.log");
    fs::write(&path, "a first line\n").unwrap();
    let (_, cursor) = bench.rest(end(9));
    fs::write(&path, "another text\nmore\n").unwrap();
    let page = bench.page(LogFrom::After { cursor });
    assert_eq!((page.gap, page.text.as_slice()), (true, b"another text\nmore\n".as_slice()));
    fs::write(&path, "cut\n").unwrap();
    let page = bench.page(LogFrom::After { cursor: page.next });
    assert_eq!((page.gap, page.text.as_slice()), (true, b"cut\n".as_slice()));
}

#[test]
fn a_line_that_has_not_ended_is_given_and_goes_on_where_it_was() {
    let bench = Bench::new(100_000);
    let mut log = bench.log(2);
    log.append(b"one\ntw");
    let (text, cursor) = bench.rest(end(1));
    log.append(b"o\n");
    assert_eq!(text + &bench.rest(LogFrom::After { cursor }).0, "two\n");
}

#[test]
fn a_process_s_lines_are_told_by_their_age_rather_more_than_less() {
    let bench = Bench::new(100_000);
    fs::write(bench.folder().join("0.log"), "old\nolder line\nnew\n").unwrap();
    let since = LogFrom::End { lines: 100, age_ms: Some(600_000) };
    let refused = read_page(bench.temporary.path(), (&bench.pod, None), &since, 100).unwrap_err();
    assert!(refused.contains("older agent"), "{refused}");
    let now = times::unix_ms(SystemTime::now());
    let mark = |at: u64, length: u64| [at.to_be_bytes(), length.to_be_bytes()].concat();
    let marks = [mark(now - 3_600_000, 0), mark(now - 700_000, 6), mark(now - 1_000, 15)].concat();
    fs::write(bench.folder().join("0.times"), marks).unwrap();
    assert_eq!(bench.rest(since).0, "older line\nnew\n");
    assert_eq!(bench.rest(LogFrom::End { lines: 1, age_ms: Some(600_000) }).0, "new\n");
    let long = LogFrom::End { lines: 100, age_ms: Some(u64::MAX) };
    assert_eq!(bench.rest(long).0, "old\nolder line\nnew\n");
}

#[test]
fn a_container_s_lines_are_put_together_counted_and_followed_over_a_rotation() {
    for bytes_max in [1, 5, 64, 100_000] {
        let bench = Bench::new(bytes_max);
        bench.contain(0..100);
        let (mut text, cursor) = bench.rest(end(50));
        fs::rename(
            container_log::path(&bench.folder(), 0),
            container_log::path(&bench.folder(), 1),
        )
        .unwrap();
        assert_eq!(bench.rest(end(3)).0, lines(97..100), "between two names");
        bench.contain(100..200);
        text += &bench.rest(LogFrom::After { cursor }).0;
        assert_eq!(text, lines(50..200));
        assert_eq!(bench.rest(end(150)).0, lines(50..200));
    }
}

#[test]
fn a_container_s_lines_are_told_by_their_age() {
    let bench = Bench::new(100_000);
    bench.contain(0..200);
    let age = times::unix_ms(SystemTime::now()) - 150_000;
    let text = bench.rest(LogFrom::End { lines: 100, age_ms: Some(age) }).0;
    // The reader's clock goes on meanwhile.
    assert!(text.ends_with(&lines(152..200)) && !text.contains("line 149\n"), "{text}");
    assert_eq!(bench.rest(LogFrom::End { lines: 5, age_ms: Some(age) }).0, lines(195..200));
}

#[test]
fn a_container_s_line_that_is_being_written_waits_and_one_without_end_holds_up_nothing() {
    let bench = Bench::new(100_000);
    let path = container_log::path(&bench.folder(), 0);
    fs::write(&path, "T stdout F one\nT stdout F tw").unwrap();
    let (text, cursor) = bench.rest(end(9));
    assert_eq!(text, "one\n");
    fs::write(&path, "T stdout F one\nT stdout F two\n").unwrap();
    assert_eq!(bench.rest(LogFrom::After { cursor }).0, "two\n");
    let rubbish = "x".repeat(3 * 256 * 1024);
    fs::write(&path, format!("T stdout F one\n{rubbish}\nT stdout F two\n")).unwrap();
    let cursor = bench.page(end(9)).next;
    assert_eq!(
        bench.rest(LogFrom::After { cursor: LogCursor { file: 0, ..cursor } }).0,
        "one\ntwo\n"
    );
}

#[test]
fn a_pod_without_a_log_is_named_and_one_that_prints_nothing_yet_is_waited_for() {
    let bench = Bench::new(100);
    let gone = "default/gone-0".parse().unwrap();
    let refused = read_page(bench.temporary.path(), (&gone, None), &end(1), 100).unwrap_err();
    assert!(refused.contains("no log of default/gone-0"));
    let (text, cursor) = bench.rest(end(9));
    assert_eq!((text.as_str(), cursor), ("", LogCursor::default()));
    bench.log(2).append(b"first\n");
    let page = bench.page(LogFrom::After { cursor });
    assert_eq!((page.gap, page.text.as_slice()), (false, b"first\n".as_slice()));
}
