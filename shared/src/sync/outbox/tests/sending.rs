//! What is on its way, for how long, and what is sent again.

use super::*;

/// An outbox whose receiver listens, with records of these sizes.
fn with_records(stream: Stream, sizes: &[usize]) -> (Outbox, Records) {
    let (mut outbox, mut store) =
        (Outbox::restore(1, OutboxQuota::default(), &[]), Records::default());
    sizes.iter().for_each(|size| append(&mut outbox, &mut store, stream, &vec![7; *size]));
    outbox.begin(&[], NOW, &mut WriteBatch::new());
    (outbox, store)
}

/// Sends the next batch; how many records it has. `None` when nothing is due.
fn send(outbox: &mut Outbox, store: &Records, bytes_max: usize, now: MonotonicMs) -> Option<usize> {
    let read = outbox.poll_read(bytes_max, false, |_, _| true)?;
    let batch = outbox.handle_read(&read, store.read(&read), now)?;
    Some(batch.records.len())
}

/// Sends everything that is due, a record in each batch; how many batches that makes.
fn send_singly(outbox: &mut Outbox, store: &Records, now: MonotonicMs) -> usize {
    std::iter::from_fn(|| send(outbox, store, 1, now)).count()
}

fn ack(stream: Stream, watermark: u64) -> LogAck {
    LogAck { log: LogId { incarnation: 1, stream }, watermark }
}

#[test]
fn a_batch_holds_what_fits_and_at_least_one_record() {
    let (mut outbox, store) = with_records(Stream::Events, &[100; 5]);
    assert_eq!(send(&mut outbox, &store, 250, NOW), Some(2));
    assert_eq!(send(&mut outbox, &store, 200, NOW), Some(2), "exactly");
    assert_eq!(send(&mut outbox, &store, 10, NOW), Some(1));
    assert_eq!(send(&mut outbox, &store, 10, NOW), None);
}

#[test]
fn a_batch_never_has_more_than_the_largest_record_and_a_little() {
    let (outbox, _) = with_records(Stream::Events, &[100]);
    let bytes_max = next_read(&outbox).unwrap().bytes_max;
    assert!((LOG_RECORD_BYTES_MAX..LOG_RECORD_BYTES_MAX + 2048).contains(&bytes_max));
}

#[test]
fn forty_eight_kibibytes_are_on_their_way_at_most() {
    let (mut outbox, store) = with_records(Stream::Events, &[12 * 1024; 6]);
    let sent = std::iter::from_fn(|| send(&mut outbox, &store, usize::MAX, NOW)).count();
    assert_eq!(sent, 4);
    outbox.handle_ack(ack(Stream::Events, 1), NOW, &mut WriteBatch::new());
    assert_eq!(next_read(&outbox).unwrap().first, 5);
}

#[test]
fn sixty_four_batches_are_on_their_way_at_most() {
    let (mut outbox, store) = with_records(Stream::Events, &[1; 70]);
    assert_eq!(send_singly(&mut outbox, &store, NOW), 64);
}

#[test]
fn what_is_overdue_is_sent_again_one_batch_at_a_time_until_an_answer_comes() {
    let (mut outbox, store) = with_records(Stream::Events, &[1; 4]);
    assert_eq!(
        (send(&mut outbox, &store, 1, NOW), send(&mut outbox, &store, 1, NOW)),
        (Some(1), Some(1))
    );
    assert_eq!(outbox.poll_timeout(), Some(MonotonicMs(5_000)));
    outbox.handle_timeout(MonotonicMs(4_999));
    assert_eq!((next_read(&outbox).unwrap().first, outbox.attempts()), (3, 0));
    let overdue = MonotonicMs(5_000);
    outbox.handle_timeout(overdue);
    assert_eq!((next_read(&outbox).unwrap().first, outbox.attempts()), (1, 1));
    assert_eq!(send(&mut outbox, &store, 1, overdue), Some(1));
    assert_eq!(send(&mut outbox, &store, 1, overdue), None, "the link may be gone");
    assert_eq!(outbox.poll_timeout(), Some(MonotonicMs(15_000)));
    outbox.handle_ack(ack(Stream::Events, 1), overdue, &mut WriteBatch::new());
    assert_eq!(outbox.attempts(), 0);
    assert_eq!(
        (send(&mut outbox, &store, 1, overdue), send(&mut outbox, &store, 1, overdue)),
        (Some(1), Some(1))
    );
}

#[test]
fn telemetry_is_overdue_after_a_quarter_of_an_hour() {
    let (mut outbox, store) = with_records(Stream::Telemetry, &[1; 2]);
    send(&mut outbox, &store, 1, NOW);
    assert_eq!(outbox.poll_timeout(), Some(MonotonicMs(18_000_000)));
}

#[test]
fn an_answer_restarts_the_wait_for_what_is_still_on_its_way() {
    let (mut outbox, store) = with_records(Stream::Events, &[1; 2]);
    send_singly(&mut outbox, &store, NOW);
    let later = MonotonicMs(3_000);
    outbox.handle_ack(ack(Stream::Events, 1), later, &mut WriteBatch::new());
    assert_eq!(outbox.poll_timeout(), Some(MonotonicMs(8_000)));
    outbox.handle_ack(ack(Stream::Events, 2), later, &mut WriteBatch::new());
    assert_eq!(outbox.poll_timeout(), None);
}

#[test]
fn a_repeated_watermark_is_news_again_after_five_seconds() {
    let (mut outbox, store) = with_records(Stream::Events, &[1; 3]);
    send_singly(&mut outbox, &store, NOW);
    let again = |outbox: &mut Outbox, ms| {
        outbox.handle_ack(ack(Stream::Events, 0), MonotonicMs(ms), &mut WriteBatch::new());
        next_read(outbox).map(|read| read.first)
    };
    assert_eq!(again(&mut outbox, 1_000), Some(1), "the first was lost");
    send_singly(&mut outbox, &store, MonotonicMs(1_000));
    assert_eq!(again(&mut outbox, 5_999), None, "said by those that were on their way");
    assert_eq!(again(&mut outbox, 6_000), Some(1));
}

#[test]
fn an_answer_that_comes_late_is_one_all_the_same() {
    let (mut outbox, store) = with_records(Stream::Events, &[1; 4]);
    send_singly(&mut outbox, &store, NOW);
    let overdue = MonotonicMs(5_000);
    outbox.handle_timeout(overdue);
    assert_eq!(send(&mut outbox, &store, 2, overdue), Some(2));
    assert_eq!(send(&mut outbox, &store, 2, overdue), None, "the link may be gone");
    outbox.handle_ack(ack(Stream::Events, 1), overdue, &mut WriteBatch::new());
    assert_eq!(outbox.attempts(), 0, "it is not");
    assert_eq!(send(&mut outbox, &store, 2, overdue), Some(2));
}

#[test]
fn only_the_newest_watermark_can_ask_for_a_repetition_and_only_of_what_was_sent() {
    let (mut outbox, store) = with_records(Stream::Events, &[1; 3]);
    let answer = |outbox: &mut Outbox, watermark| {
        outbox.handle_ack(ack(Stream::Events, watermark), NOW, &mut WriteBatch::new());
        next_read(outbox).map(|read| read.first)
    };
    assert_eq!(answer(&mut outbox, 0), Some(1), "nothing was sent yet");
    send_singly(&mut outbox, &store, NOW);
    assert_eq!(answer(&mut outbox, 0), Some(1), "1 was lost");
    send_singly(&mut outbox, &store, NOW);
    assert_eq!(answer(&mut outbox, 1), None);
    assert_eq!(answer(&mut outbox, 0), None, "overtaken on its way");
}

#[test]
fn after_a_pause_everything_that_was_not_acknowledged_goes_again() {
    let (mut outbox, store) = with_records(Stream::Events, &[1; 3]);
    send_singly(&mut outbox, &store, NOW);
    assert!(outbox.is_listening());
    outbox.pause();
    assert!(!outbox.is_listening() && next_read(&outbox).is_none());
    assert_eq!(outbox.poll_timeout(), None, "nobody is waited for");
    outbox.begin(&[ack(Stream::Events, 1)], NOW, &mut WriteBatch::new());
    assert_eq!(next_read(&outbox).unwrap().first, 2);
}

#[test]
fn a_log_of_this_start_goes_on_counting_when_all_of_it_was_delivered() {
    let (mut outbox, mut store) = with_records(Stream::Alarms, &[1; 2]);
    assert!(outbox.holds(Stream::Alarms) && !outbox.holds(Stream::Events));
    assert!(outbox.is_waiting());
    drain(&mut outbox, &mut store, &mut LogReceiver::default());
    assert!(!outbox.holds(Stream::Alarms) && !outbox.is_waiting());
    assert_eq!(
        (outbox.next_sequence(Stream::Alarms), outbox.next_sequence(Stream::Events)),
        (3, 1)
    );
    append(&mut outbox, &mut store, Stream::Alarms, b"3");
    assert_eq!(next_read(&outbox).unwrap().first, 3);
}

#[test]
fn a_start_that_has_ended_is_done_with_when_the_receiver_has_more_than_its_disk_kept() {
    let (_, mut store) = with_records(Stream::Events, &[1; 2]);
    let mut next = Outbox::restore(2, OutboxQuota::default(), &store.meta());
    assert_eq!(next.oldest_incarnation(), 1);
    let mut writes = WriteBatch::new();
    next.handle_ack(ack(Stream::Events, 9), NOW, &mut writes);
    store.commit(writes);
    assert!(store.outbox.is_empty() && store.meta.is_empty());
    assert_eq!(next.oldest_incarnation(), 2);
}

#[test]
fn what_waits_at_its_receiver_is_overdue_only_where_something_else_is_on_its_way() {
    let (mut outbox, store) = with_records(Stream::Results(SinkId(1)), &[1; 2]);
    let log = LogId { incarnation: 1, stream: Stream::Results(SinkId(1)) };
    send_singly(&mut outbox, &store, NOW);
    outbox.handle_hold(LogHold { log, received: 1 }, NOW);
    assert_eq!(outbox.poll_timeout(), Some(NOW.plus_ms(18_000_000)), "2 has not arrived");
    outbox.handle_hold(LogHold { log, received: 2 }, NOW);
    assert_eq!(outbox.poll_timeout(), Some(NOW.plus_ms(3_600_000)));
}

#[test]
fn a_receiver_that_holds_is_asked_each_hour_by_a_batch_without_records() {
    let stream = Stream::Results(SinkId(1));
    let (mut outbox, store) = with_records(stream, &[1; 70]);
    let log = LogId { incarnation: 1, stream };
    assert_eq!(send_singly(&mut outbox, &store, NOW), 64);
    outbox.handle_hold(LogHold { log, received: 64 }, NOW);
    let mut now = NOW;
    for _ in 0..5 {
        assert_eq!(next_read(&outbox), None);
        now = now.plus_ms(3_600_000);
        outbox.handle_timeout(now);
        assert_eq!(send(&mut outbox, &store, 1, now), Some(0), "though the window is full");
        assert_eq!(outbox.poll_timeout(), Some(now.plus_ms(3_600_000)), "unanswered or held again");
        assert_eq!(outbox.attempts(), 0, "the session is not suspected");
    }
    outbox.handle_timeout(now.plus_ms(3_600_000));
    outbox.handle_ack(ack(stream, 64), now, &mut WriteBatch::new());
    assert_eq!(send_singly(&mut outbox, &store, now), 6, "it had them, and the rest goes on");
}

#[test]
fn a_receiver_that_names_less_than_was_released_has_forgotten_it() {
    let stream = Stream::Telemetry;
    let (mut outbox, _) = with_records(stream, &[1; 3]);
    assert!(!outbox.is_forgotten(stream, &[]), "nothing was released yet");
    outbox.handle_ack(ack(stream, 2), NOW, &mut WriteBatch::new());
    assert!(outbox.is_forgotten(stream, &[]));
    assert!(outbox.is_forgotten(stream, &[ack(Stream::Backfill, 3), ack(stream, 1)]));
    assert!(!outbox.is_forgotten(stream, &[ack(Stream::Backfill, 1), ack(stream, 2)]));
    assert!(!outbox.is_forgotten(stream, &[ack(stream, 3)]), "what it said may have been lost");
    assert!(!outbox.is_forgotten(Stream::Backfill, &[]), "there is no such log");
}

#[test]
fn what_is_sent_after_a_hold_is_repeated_when_it_is_overdue() {
    let stream = Stream::Results(SinkId(1));
    let (mut outbox, mut store) = with_records(stream, &[1]);
    send_singly(&mut outbox, &store, NOW);
    outbox.handle_hold(LogHold { log: LogId { incarnation: 1, stream }, received: 1 }, NOW);
    append(&mut outbox, &mut store, stream, &[7]);
    send_singly(&mut outbox, &store, NOW);
    let overdue = NOW.plus_ms(18_000_000);
    assert_eq!(outbox.poll_timeout(), Some(overdue));
    outbox.handle_timeout(overdue);
    assert_eq!(next_read(&outbox).unwrap().first, 1);
}
