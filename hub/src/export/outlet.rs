//! The task of one sink: gathers what the core hands over, brings it out, and says what is done.
//!
//! A sink that is down is tried for ever, with pauses that grow; meanwhile nothing is said to be done,
//! so that no watermark moves. What a sink refuses for good is looked for by halves, counted, said in the
//! log, and passed over: a single bad sample must neither block the sink nor take its neighbours with it.

use super::tally::Tally;
use crate::core::Delivery;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

/// The first pause after a failure.
const PAUSE_FIRST: Duration = Duration::from_millis(500);

/// The longest pause: a sink that comes back is used within half a minute.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The longest pause that a sink may ask for.
const PAUSE_ASKED_MAX: Duration = Duration::from_secs(300);

/// How often one part is split in search of what is refused; past it what is left of it is passed over,
/// lest a sink that refuses everything costs a request a record.
const SPLITS_MAX: u32 = 512;

/// Why a part was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The sink is not there, not well, or not permitted: the same will be tried again.
    Down {
        /// A sentence for people.
        reason: String,
        /// How long the sink asks to be left alone.
        pause: Option<Duration>,
    },
    /// The sink will never take this part.
    Refused(String),
}

impl Failure {
    pub(crate) fn down(reason: impl Into<String>) -> Self {
        Self::Down { reason: reason.into(), pause: None }
    }
}

/// How much is brought out together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gather {
    /// Bytes of deliveries after which it is enough.
    pub(crate) bytes: u64,
    /// How long the first delivery waits for company.
    pub(crate) wait: Duration,
}

/// Where deliveries go.
pub(crate) trait Outlet: Send + 'static {
    /// What is sent in one go.
    type Part: Send + Sync;

    /// How much is brought out together.
    fn gather(&self) -> Gather;

    /// What to send, in order.
    fn prepare(&self, deliveries: &[Delivery], tally: &Tally) -> VecDeque<Self::Part>;

    /// Sends a part; it is taken, durably as far as the sink says so, or it is not.
    fn send(&mut self, part: &Self::Part) -> impl Future<Output = Result<(), Failure>> + Send;

    /// How many samples or results a part has.
    fn size(part: &Self::Part) -> u64;

    /// Two halves of a part of at least two that was refused, in the order in which to try them.
    fn halves(part: Self::Part, reason: &str) -> (Self::Part, Self::Part);

    /// A part of one was refused: takes out of `rest` what will be refused for the same reason; how
    /// much that was.
    fn forgo(&self, _refused: &Self::Part, _reason: &str, _rest: &mut VecDeque<Self::Part>) -> u64 {
        0
    }
}

/// A delivery and the number to answer with.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) ticket: u64,
    pub(crate) delivery: Delivery,
}

/// Runs until nobody hands over any more. `done` hears of each order that has ended.
pub(crate) async fn run<O: Outlet>(
    mut outlet: O,
    mut orders: mpsc::Receiver<Order>,
    done: mpsc::Sender<u64>,
    tally: Arc<Tally>,
) {
    while let Some((tickets, deliveries)) = gather(&mut orders, outlet.gather()).await {
        let parts = outlet.prepare(&deliveries, &tally);
        bring_out(&mut outlet, parts, &tally).await;
        for (ticket, delivery) in tickets.into_iter().zip(&deliveries) {
            tally.ended(delivery.bytes());
            if done.send(ticket).await.is_err() {
                return;
            }
        }
    }
}

async fn gather(
    orders: &mut mpsc::Receiver<Order>,
    gather: Gather,
) -> Option<(Vec<u64>, Vec<Delivery>)> {
    let first = orders.recv().await?;
    let end = Instant::now() + gather.wait;
    let mut bytes = first.delivery.bytes();
    let (mut tickets, mut deliveries) = (vec![first.ticket], vec![first.delivery]);
    while bytes < gather.bytes {
        let Ok(Some(order)) = tokio::time::timeout_at(end, orders.recv()).await else { break };
        bytes = bytes.saturating_add(order.delivery.bytes());
        tickets.push(order.ticket);
        deliveries.push(order.delivery);
    }
    Some((tickets, deliveries))
}

async fn bring_out<O: Outlet>(outlet: &mut O, mut rest: VecDeque<O::Part>, tally: &Tally) {
    while let Some(part) = rest.pop_front() {
        bring_out_part(outlet, part, &mut rest, tally).await;
    }
}

async fn bring_out_part<O: Outlet>(
    outlet: &mut O,
    whole: O::Part,
    rest: &mut VecDeque<O::Part>,
    tally: &Tally,
) {
    let (mut pause, mut splits_left) = (PAUSE_FIRST, SPLITS_MAX);
    let mut parts = VecDeque::from([whole]);
    while let Some(part) = parts.pop_front() {
        match outlet.send(&part).await {
            Ok(()) => {
                if tally.taken(O::size(&part)) {
                    info!(sink = tally.name(), "the sink takes again");
                }
                pause = PAUSE_FIRST;
            }
            Err(Failure::Down { reason, pause: asked }) => {
                parts.push_front(part);
                if tally.failed(&reason) {
                    warn!(sink = tally.name(), reason, "the sink takes nothing: its records wait");
                }
                tokio::time::sleep(asked.map_or(pause, |asked| asked.min(PAUSE_ASKED_MAX))).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            Err(Failure::Refused(reason)) if O::size(&part) > 1 && splits_left > 0 => {
                splits_left -= 1;
                tally.answered(&reason);
                let (first, second) = O::halves(part, &reason);
                parts.push_front(second);
                parts.push_front(first);
            }
            Err(Failure::Refused(reason)) => {
                pass_over(outlet, &part, &reason, [&mut parts, &mut *rest], tally);
            }
        }
    }
}

fn pass_over<O: Outlet>(
    outlet: &O,
    part: &O::Part,
    reason: &str,
    rest: [&mut VecDeque<O::Part>; 2],
    tally: &Tally,
) {
    let alone = O::size(part) == 1;
    let forgone = rest.map(|parts| if alone { outlet.forgo(part, reason, parts) } else { 0 });
    let refused = O::size(part).saturating_add(forgone.iter().sum());
    if tally.refused(refused, reason) {
        warn!(
            sink = tally.name(),
            refused, reason, "the sink refused records for good: passed over"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Content, SinkKey};
    use shared::model::NodeId;
    use shared::wire::{LogId, Stream};
    use std::sync::Mutex;

    /// Takes numbers, and answers as it is told to.
    struct Numbers {
        taken: Arc<Mutex<Vec<u64>>>,
        requests: Arc<Mutex<u32>>,
        down_for: u32,
        refuses: fn(u64) -> bool,
    }

    impl Outlet for Numbers {
        type Part = Vec<u64>;

        fn gather(&self) -> Gather {
            Gather { bytes: 100, wait: Duration::from_millis(10) }
        }

        fn prepare(&self, deliveries: &[Delivery], _: &Tally) -> VecDeque<Vec<u64>> {
            let numbers = deliveries.iter().flat_map(|delivery| match &delivery.content {
                Content::Results(records) => records.iter().map(|(number, _)| *number),
                Content::Samples(_) => panic!("no numbers"),
            });
            [numbers.collect()].into()
        }

        async fn send(&mut self, part: &Vec<u64>) -> Result<(), Failure> {
            *self.requests.lock().unwrap() += 1;
            if self.down_for > 0 {
                self.down_for -= 1;
                return Err(Failure::down("away"));
            }
            if part.iter().any(|number| (self.refuses)(*number)) {
                return Err(Failure::Refused("odd".to_owned()));
            }
            self.taken.lock().unwrap().extend(part);
            Ok(())
        }

        fn size(part: &Vec<u64>) -> u64 {
            part.len() as u64
        }

        fn halves(mut part: Vec<u64>, _: &str) -> (Vec<u64>, Vec<u64>) {
            let second = part.split_off(part.len() / 2);
            (part, second)
        }
    }

    async fn outcome(
        down_for: u32,
        refuses: fn(u64) -> bool,
        count: u64,
    ) -> (Vec<u64>, u32, Arc<Tally>) {
        let (taken, requests) = (Arc::default(), Arc::default());
        let (given, asked) = (Arc::clone(&taken), Arc::clone(&requests));
        let outlet = Numbers { taken: given, requests: asked, down_for, refuses };
        let (orders, queue) = mpsc::channel(8);
        let (done, mut ended) = mpsc::channel(8);
        let tally = Arc::new(Tally::new("numbers", "test"));
        let task = tokio::spawn(run(outlet, queue, done, Arc::clone(&tally)));
        let log = LogId { incarnation: 1, stream: Stream::Telemetry };
        let content = Content::Results((1..=count).map(|number| (number, vec![])).collect());
        let (node, clocks) = (NodeId::new("mast-17").unwrap(), Arc::default());
        let delivery = Delivery { node, log, sink: SinkKey::Telemetry, content, clocks };
        tally.queued(0);
        orders.send(Order { ticket: 5, delivery }).await.unwrap();
        assert_eq!(ended.recv().await, Some(5));
        drop(orders);
        task.await.unwrap();
        let (taken, requests) = (taken.lock().unwrap().clone(), *requests.lock().unwrap());
        (taken, requests, tally)
    }

    #[tokio::test]
    async fn a_sink_that_is_down_is_tried_until_it_takes() {
        let (taken, requests, tally) = outcome(2, |_| false, 3).await;
        assert_eq!((taken, requests), (vec![1, 2, 3], 3));
        let view = tally.view();
        assert_eq!((view.taken, view.refused, view.failed_attempts), (3, 0, 2));
        assert_eq!((view.down_since, view.queued_deliveries), (None, 0));
    }

    #[tokio::test]
    async fn what_is_refused_for_good_takes_no_neighbour_with_it() {
        let (taken, _, tally) = outcome(0, |number| number == 77, 100).await;
        assert_eq!(taken, (1..=100).filter(|number| *number != 77).collect::<Vec<_>>());
        assert_eq!(tally.view().refused, 1);
    }

    #[tokio::test]
    async fn a_sink_that_refuses_everything_costs_a_bounded_number_of_requests() {
        let (taken, requests, tally) = outcome(0, |_| true, 100_000).await;
        assert!(taken.is_empty() && requests <= 2 * SPLITS_MAX + 1, "{requests} requests");
        assert_eq!(tally.view().refused, 100_000);
    }
}
