//! A node with a byte budget: what it sends, what it asks for, and what it says.

use super::*;
use shared::model::{LinkBudget, NODE_POLICY_KEY, NodePolicy};
use shared::sync::message_bytes;
use shared::telemetry::BatchDecoder;
use shared::wire::{LogAck, Stream, decode};

const DAY_MS: u64 = 24 * 3600 * SECOND_MS;

const RECORD_BYTES: usize = 600;

/// What four days may carry is put into the outbox while the link is down, then `days` pass with it
/// up; the hub acknowledges everything. The payload bytes of each message as they leave.
fn days_with_a_backlog(bytes_per_day: u64, days: u64) -> (Bench, Vec<(MonotonicMs, u64)>) {
    let mut bench = Bench::new();
    bench.join();
    bench.desire_policy(Some(bytes_per_day), version(1, 2));
    bench.tell(Event::LinkDown);
    for _ in 0..4 * bytes_per_day / RECORD_BYTES as u64 {
        let record = vec![7; RECORD_BYTES];
        assert!(bench.core.append(Stream::Backfill, record, WriteBatch::new()));
    }
    bench.settle();
    bench.rejoin(version(1, 2));
    let mut sent = vec![];
    let end = bench.now.plus_ms(days * DAY_MS);
    while bench.now < end {
        bench.sent_bytes.clear();
        bench.wait(4 * SECOND_MS);
        bench.answer_reads();
        bench.acknowledge();
        sent.append(&mut bench.sent_bytes);
    }
    (bench, sent)
}

impl Bench {
    pub(super) fn desire_policy(&mut self, bytes_per_day: Option<u64>, version: Version) {
        let link = LinkBudget { bytes_per_day, bytes_per_second: None };
        let policy = encode("policy", &NodePolicy { link }).unwrap();
        self.desire_items([(NODE_POLICY_KEY.to_owned(), policy)].into(), version);
    }

    fn desire_items(&mut self, items: BTreeMap<String, Vec<u8>>, version: Version) {
        let content = MapContent::new(items);
        let chunk = MapChunk {
            map: MapName::Desired,
            header: ByteBuf::from(self.header(&content, version, &self.node.clone())),
            index: 0,
            count: 1,
            body: ByteBuf::from(encode("body", &content.snapshot()).unwrap()),
        };
        self.hub_sends(&Message::MapChunk(chunk));
    }

    /// The link comes back; the hub has what the node has.
    fn rejoin(&mut self, version: Version) {
        self.tell(Event::LinkUp);
        let policy = self.core.desired.content().clone();
        let desired = ByteBuf::from(self.header(&policy, version, &self.node.clone()));
        let reply = HelloReply { desired, reported: None, watermarks: vec![] };
        self.hub_sends(&Message::HelloReply(reply));
    }

    /// What the store would say of records that are asked for.
    fn answer_reads(&mut self) {
        while let Some(at) = self.others.iter().position(|e| matches!(e, Effect::ReadRecords(_))) {
            let Effect::ReadRecords(read) = self.others.remove(at) else { return };
            let records = self.records_of(&read);
            self.tell(Event::RecordsRead { read, records: Ok(records) });
        }
    }

    fn records_of(&self, read: &LogRead) -> Vec<(u64, Vec<u8>)> {
        let numbers = read.first..read.first + read.count_max as u64;
        let record = |number| {
            let key = shared::sync::outbox_key(read.log, number);
            self.outbox.get(&key).map(|value| (number, value.clone()))
        };
        let mut bytes = 0;
        let fits = |(_, value): &(u64, Vec<u8>)| {
            bytes += value.len();
            bytes <= read.bytes_max.max(value.len())
        };
        numbers.filter_map(record).take_while(fits).collect()
    }

    /// The hub acknowledges what it has received.
    fn acknowledge(&mut self) {
        for message in std::mem::take(&mut self.received) {
            match message {
                Message::MapChunk(chunk) if chunk.index + 1 == chunk.count => {
                    let header: MapHeader = decode("header", &chunk.header, 1024).unwrap();
                    let (map, version) = (MapName::Reported, header.position.version);
                    self.hub_sends(&Message::MapAck(MapAck::Applied { map, version }));
                }
                message => {
                    if let Some(ack) = last_record(&message) {
                        self.hub_sends(&Message::LogAck(ack));
                    }
                }
            }
        }
    }
}

fn last_record(message: &Message) -> Option<LogAck> {
    let Message::LogBatch(batch) = message else { return None };
    let watermark = batch.first + batch.records.len() as u64 - 1;
    Some(LogAck { log: batch.log, watermark })
}

fn worst_day(sent: &[(MonotonicMs, u64)]) -> u64 {
    let day_from = |(first, _): &(MonotonicMs, u64)| {
        let within = sent.iter().filter(|(at, _)| at >= first && at.since_ms(*first) < DAY_MS);
        within.map(|(_, payload)| message_bytes(usize::try_from(*payload).unwrap())).sum()
    };
    sent.iter().step_by(7).map(day_from).max().unwrap_or_default()
}

#[test]
fn a_day_is_never_over_its_bytes_and_used_when_there_is_a_backlog() {
    for day in [60_000, 250_000] {
        let (_, sent) = days_with_a_backlog(day, 2);
        let worst = worst_day(&sent);
        assert!(worst <= day, "{worst} of {day}");
        // What the hub sends is the rest.
        assert!(worst * 100 >= day * 55, "{worst} of {day}");
    }
}

#[test]
fn an_alarm_goes_at_once_however_much_waits() {
    let (mut bench, _) = days_with_a_backlog(60_000, 1);
    bench.received.clear();
    bench.core.record_event("node", "GpuLost", "the driver no longer lists it", at(bench.now));
    bench.tell(Event::Flush);
    bench.answer_reads();
    let alarm = bench.received.iter().any(
        |message| matches!(message, Message::LogBatch(batch) if batch.log.stream == Stream::Alarms),
    );
    let spent = bench.core.budget.spent_in_day(bench.now);
    let session = bench.core.session.state_name();
    let totals = bench.core.outbox.totals(Stream::Alarms);
    assert!(alarm, "{:?} {spent} {session} {totals:?} {:?}", bench.received, bench.core.reading);
}

#[test]
fn a_large_update_comes_as_fast_as_it_can_be_paid_for_and_no_faster() {
    // The bulk has had its part of the day: what is left for control is three thousand bytes.
    let (mut bench, _) = days_with_a_backlog(60_000, 1);
    let mut big = workload("ocr", 1);
    big.template.spec.containers[0].args = (0..1500).map(|n| format!("--option-{n}")).collect();
    let items = BTreeMap::from([
        ("default/ocr".to_owned(), encode("workload", &big).unwrap()),
        (NODE_POLICY_KEY.to_owned(), bench.core.desired.content().items()[NODE_POLICY_KEY].clone()),
    ]);
    let content = MapContent::new(items);
    let header = ByteBuf::from(bench.header(&content, version(1, 3), &bench.node.clone()));
    let body = encode("body", &content.snapshot()).unwrap();
    let chunks: Vec<&[u8]> = body.chunks(1024).collect();
    let count = u32::try_from(chunks.len()).unwrap();
    assert!(count > 15, "{count}");
    let (mut next, begin) = (0_u32, bench.now);
    let mut allowed = 1;
    while allowed > 0 || bench.now.since_ms(begin) < 5 * DAY_MS {
        bench.received.clear();
        if allowed > 0 {
            let body = ByteBuf::from(chunks[next as usize].to_vec());
            let map = MapName::Desired;
            let chunk = MapChunk { map, header: header.clone(), index: next, count, body };
            bench.hub_sends(&Message::MapChunk(chunk));
            next += 1;
        }
        if bench.acknowledged() {
            break;
        }
        bench.wait(SECOND_MS);
        let received = bench.received.clone();
        bench.acknowledge();
        bench.received = received;
        allowed = bench.received.iter().rev().find_map(granted).unwrap_or(0);
    }
    assert!(bench.acknowledged(), "{next} of {count} chunks came");
    let hours = bench.now.since_ms(begin) / (3600 * SECOND_MS);
    assert!((2..=72).contains(&hours), "{hours} hours for {} bytes", body.len());
}

fn granted(message: &Message) -> Option<u32> {
    match message {
        Message::MapAck(MapAck::Partial { window, .. }) => *window,
        _ => None,
    }
}

#[test]
fn what_is_spent_while_the_disk_is_full_is_known_after_a_restart() {
    let mut bench = Bench::new();
    bench.join();
    bench.desire_policy(Some(150_000), version(1, 2));
    bench.full = true;
    bench.core.record_event("node", "GpuLost", "the driver no longer lists it", at(bench.now));
    bench.tell(Event::Flush);
    bench.sent_bytes.clear();
    for connection in 1..=20 {
        bench.tell(Event::LinkDown);
        bench.now = bench.now.plus_ms(SECOND_MS);
        assert!(bench.core.permits_link(false, at(bench.now)));
        bench.rejoin(version(1, 2));
        bench.tell(Event::WireBytes(connection * 5_000));
        bench.wait(SECOND_MS);
    }
    assert!(bench.core.is_read_only());
    let sent =
        |(_, payload): &(MonotonicMs, u64)| message_bytes(usize::try_from(*payload).unwrap());
    let spent: u64 = bench.sent_bytes.iter().map(sent).sum();
    let told = bench.core.budget.spent_in_day(bench.now);
    assert!(told >= spent.max(20 * 5_000), "{told} of {spent}");
    let noted = bench.others.iter().rev().find_map(|effect| match effect {
        Effect::NoteLinkBudget(record) => Some(record.clone()),
        _ => None,
    });
    let restored = Restored { link_budget: noted.unwrap(), ..Restored::default() };
    let mut again = Bench::starting_with(restored);
    let known = again.core.budget.spent_in_day(again.now);
    assert!(known >= told && known < told + 10_000, "{known} of {told}");
}

#[test]
fn a_budget_below_the_lowest_rung_sheds_series_and_the_status_says_so() {
    let mut bench = Bench::new();
    bench.join();
    let says_so = |bench: &Bench| {
        let conditions = bench.core.node_status().conditions;
        conditions.iter().any(|c| c.kind == "TelemetryComplete" && c.reason == "BudgetTooSmall")
    };
    let sample = |bench: &mut Bench| {
        let names = ["node_load1", "node_memory_MemAvailable_bytes", "node_context_switches_total"];
        let values = names.map(|name| (Series::new(name), bench.now.0 as f64));
        bench.tell(Event::Sampled(Sample { values: values.into(), ..Sample::default() }));
    };
    (0..4).for_each(|_| sample(&mut bench));
    assert!(!says_so(&bench));
    bench.desire_policy(Some(2_000), version(1, 2));
    // What is in memory when the budget shrinks still goes as it was taken.
    (0..40).for_each(|_| sample(&mut bench));
    assert!(says_so(&bench));
    let status = bench.core.status(LinkStatus::default());
    assert!(status.budget.sheds_series && status.budget.steps_down > 0, "{status:?}");
    let mut decoder = BatchDecoder::default();
    let records = telemetry::stored(&bench, Stream::Telemetry);
    let batches = records.iter().map(|(number, record)| decoder.decode(*number, record).unwrap());
    let widths: Vec<usize> =
        batches.flat_map(|batch| batch.samples).map(|sample| sample.values.len()).collect();
    assert_eq!((widths.first(), widths.last()), (Some(&3), Some(&2)), "{widths:?}");
    bench.desire_policy(None, version(1, 3));
    (0..40).for_each(|_| sample(&mut bench));
    assert!(!says_so(&bench));
}
