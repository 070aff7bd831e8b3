//! Records that must reach a sink: nothing is acknowledged before, nothing is lost, nothing waits for
//! another's sink.

use super::*;
use shared::model::{
    BootClock, BootOffset, ClockQuality, NodeEvent, PodResult, ResultFormat, SinkId,
};
use shared::telemetry::{Batch, BatchEncoder, Sample};
use shared::wire::LogHold;

const SINK: SinkId = SinkId(7);
const OTHER: SinkId = SinkId(8);

fn world() -> World {
    let sinks = ConfiguredSinks { telemetry: true, results: vec![SINK, OTHER] };
    let mut world = World::without_manifests_with(sinks);
    world.handle(Event::Manifests(Manifests::default()));
    world.greet(None);
    world
}

fn log(stream: Stream) -> LogId {
    LogId { incarnation: 1, stream }
}

fn sample(at: u64) -> Vec<u8> {
    let sample = Sample { at: UnixMs(at), ..Sample::default() };
    BatchEncoder::default().encode(&Batch { samples: vec![sample] }, 1).unwrap().record().to_vec()
}

fn result() -> Vec<u8> {
    let clock =
        BootClock { boot: 1, since_boot_ms: 0, offset_ms: 0, quality: ClockQuality::Synchronised };
    let result = PodResult {
        pod: "default/ocr-0".parse().unwrap(),
        topic: "plates".to_owned(),
        at: UnixMs(1),
        clock,
        format: ResultFormat::Json,
        body: b"{}".to_vec().into(),
        thinned: 0,
    };
    encode("result", &result).unwrap()
}

fn batch(stream: Stream, first: u64, records: &[Vec<u8>]) -> Message {
    let records = records.iter().map(|record| record.clone().into()).collect();
    Message::LogBatch(LogBatch { log: log(stream), oldest: 1, first, records })
}

fn delivered(steps: &[Step]) -> Vec<&Delivery> {
    let mut found = Vec::new();
    for step in steps {
        if let Step::Delivered(delivery) = step {
            found.push(delivery);
        }
    }
    found
}

/// When the delivered samples were taken.
fn moments(steps: &[Step]) -> Vec<u64> {
    let batches = delivered(steps).into_iter().flat_map(|delivery| match &delivery.content {
        Content::Samples(batches) => batches.clone(),
        Content::Results(_) => panic!("no samples"),
    });
    batches.flat_map(|batch| batch.moments).map(|moment| moment.at.0).collect()
}

fn holds(steps: &[Step]) -> Vec<LogHold> {
    let hold = |step: &Step| match step {
        Step::Sent(Message::LogHold(hold)) => Some(*hold),
        _ => None,
    };
    steps.iter().filter_map(hold).collect()
}

impl World {
    fn sink_takes(&mut self) -> Vec<Step> {
        let tickets = std::mem::take(&mut self.tickets);
        tickets.into_iter().flat_map(|ticket| self.handle(Event::Delivered { ticket })).collect()
    }

    fn pass(&mut self, ms: u64) -> Vec<Step> {
        self.now.monotonic = self.now.monotonic.plus_ms(ms);
        self.hub.handle_timeout(self.now);
        self.run()
    }

    fn stored_watermark(&self, stream: Stream) -> u64 {
        let stored = read_stored_state(&self.store).unwrap();
        stored.nodes[&node()].logs.watermark(&log(stream))
    }

    fn record(&self) -> NodeRecord {
        self.hub.record(&node()).unwrap().clone()
    }
}

#[test]
fn samples_are_committed_once_prometheus_has_them_and_acknowledged_in_time() {
    let mut world = world();
    let steps = world.tell(&batch(Stream::Telemetry, 1, &[sample(1), sample(2)]));
    assert_eq!(moments(&steps), [1, 2]);
    assert_eq!((acked(&steps), world.record().samples_received), (vec![], 0));
    assert_eq!(world.stored_watermark(Stream::Telemetry), 0);
    let steps = world.sink_takes();
    assert!(steps.contains(&Step::Persisted) && acked(&steps).is_empty(), "{steps:?}");
    assert_eq!(
        (world.stored_watermark(Stream::Telemetry), world.record().samples_received),
        (2, 2)
    );
    assert_eq!(acked(&world.pass(4 * 60 * 60_000)), [2]);
}

#[test]
fn a_sink_that_does_not_take_within_two_seconds_is_said_to_hold_once() {
    let mut world = world();
    world.tell(&batch(Stream::Results(SINK), 1, &[result()]));
    let hold = LogHold { log: log(Stream::Results(SINK)), received: 1 };
    assert_eq!(holds(&world.pass(2_000)), [hold]);
    assert!(holds(&world.pass(3_600_000)).is_empty());
    // The node repeats all the same: it did not hear.
    let steps = world.tell(&batch(Stream::Results(SINK), 1, &[result()]));
    assert_eq!((holds(&steps), delivered(&steps)), (vec![hold], vec![]));
    assert_eq!(world.hub.node_view(&node()).unwrap().waiting[0].stream, "results 00000007");
}

#[test]
fn a_hub_that_is_killed_meanwhile_is_sent_everything_again_and_counts_it_once() {
    let mut world = world();
    world.tell(&batch(Stream::Telemetry, 1, &[sample(1), sample(2)]));
    world.sink_takes();
    world.tell(&batch(Stream::Telemetry, 3, &[sample(3), vec![1, 0xff]]));
    world.restart();
    world.handle(Event::Manifests(Manifests::default()));
    let steps = world.greet(None);
    assert_eq!(reply_in(&steps).unwrap().watermarks[0].watermark, 2);
    let steps = world.tell(&batch(Stream::Telemetry, 3, &[sample(3), vec![1, 0xff]]));
    assert_eq!(moments(&steps), [3], "the undecodable one does not stand in the way");
    world.sink_takes();
    let record = world.record();
    assert_eq!((record.samples_received, record.records_undecodable), (3, 1));
    assert_eq!(world.stored_watermark(Stream::Telemetry), 4);
}

#[test]
fn a_sink_that_is_down_stops_no_other() {
    let mut world = world();
    world.tell(&batch(Stream::Results(SINK), 1, &[result()]));
    let down = std::mem::take(&mut world.tickets);
    world.tell(&batch(Stream::Results(OTHER), 1, &[result()]));
    world.tell(&batch(Stream::Telemetry, 1, &[sample(1)]));
    world.sink_takes();
    assert_eq!(world.stored_watermark(Stream::Results(OTHER)), 1);
    assert_eq!(world.stored_watermark(Stream::Telemetry), 1);
    assert_eq!(world.stored_watermark(Stream::Results(SINK)), 0);
    world.tickets = down;
    world.sink_takes();
    assert_eq!(world.stored_watermark(Stream::Results(SINK)), 1);
    assert_eq!(world.record().results_received, 2);
}

#[test]
fn results_for_a_sink_that_is_not_configured_stay_with_their_node_and_are_named() {
    let mut world = world();
    let missing = Stream::Results(SinkId(0x1234));
    let steps = world.tell(&batch(missing, 1, &[result(), result()]));
    assert_eq!(holds(&steps), [LogHold { log: log(missing), received: 2 }]);
    assert!(delivered(&steps).is_empty() && acked(&steps).is_empty());
    let view = world.hub.view();
    assert_eq!(view.missing_sinks, [MissingSink { sink: "00001234".to_owned(), nodes: 1 }]);
    assert_eq!(world.hub.node_view(&node()).unwrap().missing_sinks, ["00001234"]);
}

#[test]
fn more_than_may_wait_stays_with_its_node_until_there_is_room() {
    let mut world = world();
    let (mut first, many) = (1, vec![sample(1); 256]);
    let steps = loop {
        let steps = world.tell(&batch(Stream::Telemetry, first, &many));
        if world.hub.view().crowded_out_batches > 0 {
            break steps;
        }
        first += 256;
    };
    assert!(first > 4 * 256, "what an honest sender has on its way must fit");
    assert!(moments(&steps).is_empty() && acked(&steps).is_empty(), "{steps:?}");
    let hold = LogHold { log: log(Stream::Telemetry), received: first + 255 };
    assert!(holds(&steps).contains(&hold), "{steps:?}");
    assert!(acked(&world.pass(60_000)).is_empty(), "there is no room yet");
    // There is room again: the node is told where to go on, and what it repeats is taken.
    let steps = [world.sink_takes(), world.pass(1_000)].concat();
    assert!(acked(&steps).contains(&(first - 1)), "{steps:?}");
    let steps = world.tell(&batch(Stream::Telemetry, first, &[sample(7)]));
    assert_eq!(moments(&steps), [7]);
}

#[test]
fn what_nobody_will_deliver_comes_again() {
    let mut world = world();
    world.tell(&batch(Stream::Telemetry, 1, &[sample(1)]));
    world.tell(&batch(Stream::Telemetry, 2, &[sample(2)]));
    let [_, second] = world.tickets[..] else { panic!("{:?}", world.tickets) };
    world.handle(Event::DeliveryFailed { ticket: second, error: "full".to_owned() });
    let steps = world.tell(&batch(Stream::Telemetry, 1, &[sample(1), sample(2)]));
    // Each record builds on the one before: the first, which still waits, comes again with it.
    assert_eq!(moments(&steps), [1, 2]);
    world.sink_takes();
    assert_eq!(world.stored_watermark(Stream::Telemetry), 2);
    assert_eq!(world.record().samples_received, 2);
}

#[test]
fn a_batch_that_leaves_a_hole_or_repeats_what_is_committed_is_answered_at_once() {
    let mut world = world();
    assert_eq!(acked(&world.tell(&batch(Stream::Telemetry, 3, &[sample(3)]))), [0]);
    world.tell(&batch(Stream::Telemetry, 1, &[sample(1)]));
    world.sink_takes();
    assert_eq!(acked(&world.tell(&batch(Stream::Telemetry, 1, &[sample(1)]))), [1]);
    assert!(acked(&world.pass(3_600_000)).is_empty(), "it was told already");
    // Repeats with something new behind it: the sender waits to hear just the same.
    world.tell(&batch(Stream::Telemetry, 1, &[sample(1), sample(2)]));
    assert_eq!(acked(&world.sink_takes()), [2]);
}

#[test]
fn many_batches_have_one_acknowledgement() {
    let mut world = world();
    let mut told = Vec::new();
    for number in 1..=32 {
        world.tell(&batch(Stream::Telemetry, number, &[sample(number)]));
        told.extend(acked(&world.sink_takes()));
    }
    assert_eq!(told, [32]);
}

#[test]
fn a_boot_that_was_mapped_by_the_hubs_clock_lies_there_after_a_restart_of_the_hub() {
    let mut world = world();
    world.now.wall = UnixMs(1_800_000_000_000);
    let clock = BootClock {
        boot: 9,
        since_boot_ms: 60_000,
        offset_ms: 0,
        quality: ClockQuality::Unsynchronised,
    };
    let Message::Hello(greeting) = hello(None) else { panic!("not a greeting") };
    let greeting = Message::Hello(Hello { clock: Some(clock), ..greeting });
    let steps = world.tell(&greeting);
    let reply = steps.iter().position(|step| matches!(step, Step::Sent(Message::HelloReply(_))));
    assert!(steps[..reply.unwrap()].contains(&Step::Persisted), "not durable: {steps:?}");
    let offset = |steps: &[Step]| delivered(steps)[0].clocks.offset_ms(9);
    let steps = world.tell(&batch(Stream::Telemetry, 1, &[sample(1)]));
    assert_eq!(offset(&steps), Some(1_799_999_940_000));
    world.restart();
    world.handle(Event::Manifests(Manifests::default()));
    world.now.wall = UnixMs(1_900_000_000_000);
    world.greet(None);
    world.tell(&greeting);
    let steps = world.tell(&batch(Stream::Telemetry, 1, &[sample(1)]));
    assert_eq!(offset(&steps), Some(1_799_999_940_000), "the same sample, another time");
}

/// Also an event that came before the hub knew where the boot lies.
#[test]
fn an_event_of_a_wrong_clock_is_shown_at_its_true_time_and_kept_as_it_was_told() {
    let mut world = world();
    world.now.wall = UnixMs(1_800_000_000_000);
    let event = NodeEvent {
        at: UnixMs(20_000),
        quality: ClockQuality::Unsynchronised,
        object: "node".to_owned(),
        reason: "GpuLost".to_owned(),
        message: String::new(),
        boot: Some(BootOffset { boot: 9, offset_ms: 0 }),
    };
    world.tell(&batch(Stream::Alarms, 1, &[encode("event", &event).unwrap()]));
    let shown = |world: &World| world.hub.node_view(&node()).unwrap().events[0].at;
    assert_eq!(shown(&world), UnixMs(20_000));
    let (boot, since_boot_ms, offset_ms) = (9, 60_000, 0);
    let quality = ClockQuality::Unsynchronised;
    let clock = BootClock { boot, since_boot_ms, offset_ms, quality };
    let Message::Hello(greeting) = hello(None) else { panic!("not a greeting") };
    world.tell(&Message::Hello(Hello { clock: Some(clock), ..greeting }));
    assert_eq!(shown(&world), UnixMs(1_799_999_960_000));
    assert_eq!(world.hub.events(&node()).collect::<Vec<_>>(), [&event]);
}
