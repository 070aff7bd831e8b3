//! What the link has cost on the wire since it was made, at the level of IP: headers,
//! acknowledgements, handshakes, retransmissions, attempts that failed.
//!
//! The kernel is asked ([`SocketDiag`]). What it can't be asked, a connection's last packets above
//! all, is added by a model; where the kernel has no such service, everything is. Nothing is ever
//! taken back: the count only grows.

use super::socket_diag::{ConnectionId, Look, SocketDiag};
use crate::wire_cost::{
    NAME_LOOKUP_BYTES, RESET_BYTES, SEGMENT_HEADER_BYTES, SEGMENT_PAYLOAD_BYTES_MAX, SYN_BYTES,
};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::debug;

/// The kernel is asked this often while something can still change: acknowledgements come late, and
/// packets are repeated. What it counted after the last question is lost with a connection that is
/// reset.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// Connections whose last packets may still be on their way. More than one a minute are not made.
const CLOSING_MAX: usize = 8;

/// A closed connection repeats its last packets no longer than this (the dialler sets it), and a
/// little.
const CLOSING_TIME_MAX: Duration = Duration::from_secs(150);

/// IPv4 and IPv6.
const LOOKUPS_PER_NAME: u64 = 2;

/// Bytes on the wire, IP headers included, link layer not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WireBytes {
    /// From this end.
    pub sent: u64,
    /// To this end.
    pub received: u64,
}

impl WireBytes {
    /// Both ways.
    #[must_use]
    pub fn total(self) -> u64 {
        self.sent.saturating_add(self.received)
    }

    fn plus(self, other: Self) -> Self {
        Self {
            sent: self.sent.saturating_add(other.sent),
            received: self.received.saturating_add(other.received),
        }
    }

    fn at_least(self, other: Self) -> Self {
        Self { sent: self.sent.max(other.sent), received: self.received.max(other.received) }
    }
}

/// The count of one link.
#[derive(Debug, Default)]
pub(super) struct WireMeter(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Of connections that are over, and of names that were looked up.
    settled: WireBytes,
    tracked: Vec<Tracked>,
    kernel: Kernel,
}

#[derive(Debug, Default)]
enum Kernel {
    #[default]
    NotAsked,
    Answers(SocketDiag),
    Silent,
}

/// A connection that is open, or whose last packets may still be on their way.
#[derive(Debug)]
struct Tracked {
    id: ConnectionId,
    stream: Arc<StreamCounts>,
    /// What the kernel said last, when, and what the stream had counted then.
    known: Option<(Look, StreamTotals)>,
    asked: Option<Instant>,
    closed: Option<Instant>,
    counted: WireBytes,
}

/// What one stream carries, counted by the stream itself.
#[derive(Debug, Default)]
pub(super) struct StreamCounts {
    sent_bytes: AtomicU64,
    sent_segments: AtomicU64,
    received_bytes: AtomicU64,
    received_segments: AtomicU64,
    connected: AtomicBool,
    end: AtomicU8,
}

/// How the other end ended a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamEnd {
    /// It said that it sends no more.
    Closed = 1,
    /// It forgot the connection, or refused it.
    Reset = 2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct StreamTotals {
    sent: u64,
    sent_segments: u64,
    received: u64,
    received_segments: u64,
}

impl StreamCounts {
    pub(super) fn note_connected(&self) {
        self.connected.store(true, Ordering::Relaxed);
    }

    pub(super) fn note_sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.sent_segments.fetch_add(segments(bytes), Ordering::Relaxed);
    }

    pub(super) fn note_received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.received_segments.fetch_add(segments(bytes), Ordering::Relaxed);
    }

    pub(super) fn note_end(&self, end: StreamEnd) {
        self.end.store(end as u8, Ordering::Relaxed);
    }

    fn totals(&self) -> StreamTotals {
        StreamTotals {
            sent: self.sent_bytes.load(Ordering::Relaxed),
            sent_segments: self.sent_segments.load(Ordering::Relaxed),
            received: self.received_bytes.load(Ordering::Relaxed),
            received_segments: self.received_segments.load(Ordering::Relaxed),
        }
    }

    fn ended_by(&self, end: StreamEnd) -> bool {
        self.end.load(Ordering::Relaxed) == end as u8
    }

    /// What it took to open it, as far as it came.
    fn opening(&self) -> WireBytes {
        if self.connected.load(Ordering::Relaxed) {
            return WireBytes { sent: SYN_BYTES + SEGMENT_HEADER_BYTES, received: SYN_BYTES };
        }
        WireBytes { sent: SYN_BYTES, received: 0 }
    }

    /// What it takes to close it, beyond what the kernel has counted until then.
    fn closing(&self) -> WireBytes {
        let connected = self.connected.load(Ordering::Relaxed);
        if self.ended_by(StreamEnd::Reset) {
            // One that ends a connection has time stamps, one that refuses it has none.
            let reset = if connected { SEGMENT_HEADER_BYTES } else { RESET_BYTES };
            return WireBytes { sent: 0, received: reset };
        }
        if !connected {
            return WireBytes::default();
        }
        let segments = if self.ended_by(StreamEnd::Closed) { 1 } else { 2 };
        let bytes = segments * SEGMENT_HEADER_BYTES;
        WireBytes { sent: bytes, received: bytes }
    }
}

fn segments(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(SEGMENT_PAYLOAD_BYTES_MAX)
}

impl StreamTotals {
    /// What the stream carried since `earlier`, with headers and acknowledgements by the model.
    fn since(self, earlier: Self) -> WireBytes {
        let sent_segments = self.sent_segments.saturating_sub(earlier.sent_segments);
        let received_segments = self.received_segments.saturating_sub(earlier.received_segments);
        let headers = |data: u64, acknowledged: u64| {
            data.saturating_add(acknowledged.div_ceil(2)).saturating_mul(SEGMENT_HEADER_BYTES)
        };
        let sent = self.sent.saturating_sub(earlier.sent);
        let received = self.received.saturating_sub(earlier.received);
        WireBytes {
            sent: sent.saturating_add(headers(sent_segments, received_segments)),
            received: received.saturating_add(headers(received_segments, sent_segments)),
        }
    }
}

impl Tracked {
    /// Asks the kernel if something can have changed. Says whether the connection is over.
    fn refresh(&mut self, kernel: &mut Kernel, now: Instant) -> bool {
        let totals = self.stream.totals();
        let unchanged = self.known.is_some_and(|(_, then)| then == totals);
        if unchanged && !self.can_change() {
            return false;
        }
        let lately = self.asked.is_some_and(|asked| now.duration_since(asked) < ASK_INTERVAL);
        if unchanged && lately {
            return false;
        }
        self.asked = Some(now);
        let found = kernel.look_up(&mut self.id);
        if let Some(look) = found {
            self.known = Some((look, totals));
        }
        self.count(totals);
        let late = |since: Instant| now.duration_since(since) > CLOSING_TIME_MAX;
        self.closed.is_some_and(|since| found.is_none() || late(since))
    }

    /// A reset while something was unacknowledged answers a packet that was sent again after the
    /// kernel was asked last: between one byte and a segment of it, so half of that.
    fn last_repeat(&self) -> WireBytes {
        let look = self.known.map(|(look, _)| look).filter(|look| look.unacknowledged_bytes > 0);
        let Some(look) = look.filter(|_| self.stream.ended_by(StreamEnd::Reset)) else {
            return WireBytes::default();
        };
        let bytes = look.unacknowledged_bytes.min(SEGMENT_PAYLOAD_BYTES_MAX) / 2;
        WireBytes { sent: bytes.saturating_add(SEGMENT_HEADER_BYTES), received: 0 }
    }

    /// Whether packets can still come that the stream does not see.
    fn can_change(&self) -> bool {
        self.closed.is_some() || self.known.is_none_or(|(look, _)| look.unsettled)
    }

    /// When the kernel should be asked again, if there is anything to ask.
    fn next_look(&self) -> Option<Instant> {
        let told = self.known.is_some_and(|(_, then)| then == self.stream.totals());
        let asked = self.asked?;
        (!told || self.can_change()).then(|| asked + ASK_INTERVAL)
    }

    fn count(&mut self, totals: StreamTotals) {
        let (known, then) = match self.known {
            Some((look, then)) => (look.wire, then),
            None => (self.stream.opening(), StreamTotals::default()),
        };
        self.counted = self.counted.at_least(known.plus(totals.since(then)));
    }

    /// The stream is about to be closed: from here on nothing but the last packets can come.
    fn close(&mut self, kernel: &mut Kernel, now: Instant) {
        self.asked = None;
        self.refresh(kernel, now);
        self.counted = self.counted.plus(self.stream.closing()).plus(self.last_repeat());
        self.closed = Some(now);
        // What follows is asked for by time alone.
        self.asked = Some(now);
    }
}

impl Kernel {
    /// What the kernel says of a connection, if it says anything.
    fn look_up(&mut self, id: &mut ConnectionId) -> Option<Look> {
        if matches!(self, Self::NotAsked) {
            *self = SocketDiag::open().map_or(Self::Silent, Self::Answers);
        }
        let Self::Answers(diag) = self else { return None };
        match diag.look_up(id) {
            Ok(found) => found,
            Err(error) => {
                debug!(%error, "the kernel does not say what crossed: it is modelled from here on");
                *self = Self::Silent;
                None
            }
        }
    }
}

impl WireMeter {
    /// What the link has cost so far.
    pub(super) fn read(&self) -> WireBytes {
        let mut state = self.state();
        state.refresh(Instant::now());
        state.tracked.iter().fold(state.settled, |sum, tracked| sum.plus(tracked.counted))
    }

    /// Waits for `future`, and asks the kernel meanwhile for as long as something can change.
    pub(super) async fn watching<T>(&self, future: impl Future<Output = T>) -> T {
        tokio::pin!(future);
        loop {
            let look = async {
                match self.next_look() {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                done = &mut future => return done,
                () = look => { self.read(); }
            }
        }
    }

    fn next_look(&self) -> Option<Instant> {
        let state = self.state();
        if matches!(state.kernel, Kernel::Silent) {
            return None;
        }
        state.tracked.iter().filter_map(Tracked::next_look).min()
    }

    /// A name is looked up.
    pub(super) fn note_lookup(&self) {
        let bytes = LOOKUPS_PER_NAME * NAME_LOOKUP_BYTES / 2;
        let mut state = self.state();
        state.settled = state.settled.plus(WireBytes { sent: bytes, received: bytes });
    }

    /// A connection is being made between these addresses.
    pub(super) fn track(&self, local: SocketAddr, remote: SocketAddr, stream: &Arc<StreamCounts>) {
        let mut state = self.state();
        state.refresh(Instant::now());
        while state.tracked.len() >= CLOSING_MAX {
            let oldest = state.tracked.remove(0);
            state.settled = state.settled.plus(oldest.counted);
        }
        state.tracked.push(Tracked {
            id: ConnectionId::new(local, remote),
            stream: Arc::clone(stream),
            known: None,
            // Its SYN is on its way.
            asked: Some(Instant::now()),
            closed: None,
            counted: WireBytes::default(),
        });
    }

    /// A connection is about to be closed.
    pub(super) fn close(&self, stream: &Arc<StreamCounts>) {
        let mut state = self.state();
        let State { tracked, kernel, .. } = &mut *state;
        let tracked = tracked.iter_mut().find(|tracked| Arc::ptr_eq(&tracked.stream, stream));
        if let Some(tracked) = tracked {
            tracked.close(kernel, Instant::now());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn refresh(&mut self, now: Instant) {
        let Self { settled, tracked, kernel } = self;
        tracked.retain_mut(|tracked| {
            let over = tracked.refresh(kernel, now);
            if over {
                *settled = settled.plus(tracked.counted);
            }
            !over
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: ([u8; 4], u16) = ([127, 0, 0, 1], 1);
    const REMOTE: ([u8; 4], u16) = ([127, 0, 0, 1], 2);

    /// A meter that the kernel does not answer.
    fn modelling() -> (WireMeter, Arc<StreamCounts>) {
        let meter = WireMeter::default();
        meter.state().kernel = Kernel::Silent;
        let stream = Arc::new(StreamCounts::default());
        meter.track(LOCAL.into(), REMOTE.into(), &stream);
        (meter, stream)
    }

    #[test]
    fn without_the_kernel_a_whole_connection_is_modelled_packet_by_packet() {
        let (meter, stream) = modelling();
        assert_eq!(meter.read(), WireBytes { sent: 60, received: 0 });
        stream.note_connected();
        stream.note_sent(100);
        stream.note_received(3000);
        // SYN, acknowledgement, data, two acknowledgements of three segments; the other way SYN,
        // three segments, one acknowledgement.
        let open = WireBytes { sent: 60 + 52 + 152 + 104, received: 60 + 3000 + 3 * 52 + 52 };
        assert_eq!(meter.read(), open);
        meter.close(&stream);
        let closed = WireBytes { sent: open.sent + 104, received: open.received + 104 };
        assert_eq!(meter.read(), closed);
        assert_eq!(meter.read(), closed);
    }

    #[test]
    fn a_refused_attempt_costs_two_packets() {
        let (meter, stream) = modelling();
        stream.note_end(StreamEnd::Reset);
        meter.close(&stream);
        assert_eq!(meter.read(), WireBytes { sent: 60, received: 40 });
    }

    #[test]
    fn a_name_costs_two_lookups() {
        let meter = WireMeter::default();
        meter.note_lookup();
        assert_eq!(meter.read().total(), 300);
    }

    #[test]
    fn connections_without_end_do_not_fill_memory_and_nothing_of_them_is_forgotten() {
        let meter = WireMeter::default();
        meter.state().kernel = Kernel::Silent;
        for _ in 0..100 {
            let stream = Arc::new(StreamCounts::default());
            meter.track(LOCAL.into(), REMOTE.into(), &stream);
            stream.note_connected();
            meter.close(&stream);
        }
        assert!(meter.state().tracked.len() <= CLOSING_MAX);
        assert_eq!(meter.read().total(), 100 * (60 + 52 + 60 + 4 * 52));
    }
}
