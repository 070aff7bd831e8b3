//! A broker and its links in memory: drops, repeats, delays, and lets late messages overtake.

use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;
use shared::model::MonotonicMs;
use std::collections::{BTreeMap, VecDeque};

/// Messages of the past that are kept.
const HISTORY_MESSAGES: usize = 256;

/// How bad the link is, each in thousandths of the messages.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Badness {
    /// Never arrive.
    pub(super) dropped: u32,
    /// Arrive twice.
    pub(super) repeated: u32,
    /// Arrive late, behind later ones.
    pub(super) delayed: u32,
}

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From this agent to the hub.
    Up(usize),
    /// From the hub to this agent.
    Down(usize),
}

/// Messages on their way, by the time at which they arrive.
#[derive(Debug, Default)]
pub(super) struct Link {
    in_flight: BTreeMap<(MonotonicMs, u64), (Way, Vec<u8>)>,
    next: u64,
    /// What crossed lately, for a hostile broker to bring again.
    history: VecDeque<(Way, Vec<u8>)>,
    /// Ways on which everything disappears while both ends believe in the link.
    black_holes: Vec<Way>,
    pub(super) badness: Badness,
    /// Payload bytes that were handed to the link.
    pub(super) bytes: u64,
}

/// `true` in `thousandths` of 1000 cases.
pub(super) fn chance(random: &mut ChaCha20Rng, thousandths: u32) -> bool {
    random.next_u32() % 1000 < thousandths
}

impl Link {
    /// Hands a message to the link.
    pub(super) fn send(
        &mut self,
        way: Way,
        payload: Vec<u8>,
        now: MonotonicMs,
        random: &mut ChaCha20Rng,
    ) {
        self.bytes += payload.len() as u64;
        if self.history.len() >= HISTORY_MESSAGES {
            self.history.pop_front();
        }
        self.history.push_back((way, payload.clone()));
        if self.black_holes.contains(&way) {
            return;
        }
        if chance(random, self.badness.dropped) {
            return;
        }
        if chance(random, self.badness.repeated) {
            let late = u64::from(random.next_u32() % 5_000);
            self.schedule(way, payload.clone(), now.plus_ms(late));
        }
        let delay = if chance(random, self.badness.delayed) {
            u64::from(random.next_u32() % 20_000)
        } else {
            5 + u64::from(random.next_u32() % 40)
        };
        self.schedule(way, payload, now.plus_ms(delay));
    }

    fn schedule(&mut self, way: Way, payload: Vec<u8>, at: MonotonicMs) {
        self.next += 1;
        self.in_flight.insert((at, self.next), (way, payload));
    }

    /// When the next message arrives.
    pub(super) fn next_arrival(&self) -> Option<MonotonicMs> {
        self.in_flight.keys().next().map(|(at, _)| *at)
    }

    /// A message that has arrived.
    pub(super) fn take_arrived(&mut self, now: MonotonicMs) -> Option<(Way, Vec<u8>)> {
        let key = *self.in_flight.keys().next().filter(|(at, _)| *at <= now)?;
        self.in_flight.remove(&key)
    }

    /// The broker forgets what is on its way to and from this agent.
    pub(super) fn cut(&mut self, agent: usize) {
        self.in_flight.retain(|_, (way, _)| *way != Way::Up(agent) && *way != Way::Down(agent));
    }

    /// A message of the past, for a hostile broker to bring again.
    pub(super) fn any(&self, random: &mut ChaCha20Rng) -> Option<(Way, Vec<u8>)> {
        let count = self.history.len();
        let at = usize::try_from(random.next_u64()).ok()?.checked_rem(count)?;
        self.history.get(at).cloned()
    }

    /// Everything on this way disappears from now on, or no longer; which of the two.
    pub(super) fn toggle_black_hole(&mut self, way: Way) -> bool {
        let before = self.black_holes.len();
        self.black_holes.retain(|hole| *hole != way);
        let opened = self.black_holes.len() == before;
        if opened {
            self.black_holes.push(way);
        }
        opened
    }

    /// Nothing disappears any more.
    pub(super) fn fill_black_holes(&mut self) {
        self.black_holes.clear();
    }
}
