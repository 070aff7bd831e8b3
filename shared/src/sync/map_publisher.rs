//! The sending side of a map: brings one peer to the present content, with as few bytes as it can.
//!
//! Knows what the peer acknowledged last; sends a delta from there, or a snapshot where it does not
//! know. Chunks go in a window and are repeated from the first missing one. A transfer that was
//! begun is finished even if the content changes meanwhile, so that a content that changes often
//! still arrives; what changed since follows as a delta.
//!
//! Refuses to decide what the content is or what its header says.

use super::map_content::MapContent;
use super::retry::Retry;
use crate::limits::MAP_CHUNK_BYTES_MAX;
use crate::model::MonotonicMs;
use crate::wire::{
    Digest, EncodeError, MapAck, MapChunk, MapName, MapPosition, MapRefusal, RefusalReason,
    ShownContent, Version, encode,
};
use serde_bytes::ByteBuf;
use std::collections::{BTreeMap, VecDeque};

/// Chunks sent beyond the last acknowledged one, at most: 32 KiB.
const WINDOW_CHUNKS_MAX: u32 = 8;

/// And at least, and at first: a second of a 64 kbit/s link, which is how long an alarm waits then.
const WINDOW_CHUNKS_MIN: u32 = 2;

/// A chunk for a peer that pays for each byte: a sixtieth of the day's 60 kB.
pub const FRUGAL_CHUNK_BYTES: usize = 1024;

/// The first chunk for a peer that pays for what comes, sent before it can say what it can afford: a
/// changed image fits.
pub const UNASKED_CHUNK_BYTES: usize = 192;

/// How long a peer that asks may be silent at first, and at most; it asks again sooner by itself.
const ASKED_WAIT_MS_FIRST: u64 = 60_000;
const ASKED_WAIT_MS_MAX: u64 = 60 * 60_000;

/// An acknowledgement that comes sooner than this shows that the link carries more; a satellite's
/// round trip is below it.
const PROMPT_MS: u64 = 1_000;

/// How updates are cut and sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Chunking {
    /// Large chunks, as many on their way as the link carries.
    #[default]
    Generous,
    /// Small chunks, one on its way: whoever sends pays for each byte.
    Frugal,
    /// Whoever receives pays for each byte: a first chunk that it always has room for, then small ones,
    /// each when it asks for it. What it does not get it asks for again.
    Asked,
}

/// Brings one peer to the present content of one map.
#[derive(Debug)]
pub struct MapPublisher {
    map: MapName,
    content: MapContent,
    position: MapPosition,
    header: Vec<u8>,
    /// An earlier content that the peer had last, to send edits of its values.
    earlier: Option<MapContent>,
    peer: Option<Peer>,
    transfer: Option<Transfer>,
    retry: Retry,
    chunking: Chunking,
}

/// What is known of a peer that listens.
#[derive(Debug, Default)]
struct Peer {
    position: Option<MapPosition>,
    /// The digests of its items, where they are known.
    content: Option<BTreeMap<String, Digest>>,
    /// What it says that it has, where nothing of that kind was published yet.
    shown: Option<ShownContent>,
}

/// An update on its way.
#[derive(Debug)]
struct Transfer {
    position: MapPosition,
    header: Vec<u8>,
    content: MapContent,
    chunks: Vec<Vec<u8>>,
    /// The first chunk that the peer has not acknowledged.
    acknowledged: u32,
    /// The next chunk to send.
    next: u32,
    /// Chunks that may be on their way.
    window: u32,
    /// The fewest, where the peer says nothing.
    window_min: u32,
    /// When each chunk from `acknowledged` on was sent.
    sent_at: VecDeque<MonotonicMs>,
    chunking: Chunking,
    /// The first chunk goes once more, to hear how far the peer is.
    probes: bool,
    /// It went, and the peer has not answered.
    probed: bool,
}

impl Transfer {
    /// Chunks before `next` have arrived: more may go where that was prompt, fewer where it was not.
    fn pace(&mut self, next: u32, now: MonotonicMs) {
        let mut sent = None;
        for _ in self.acknowledged..next {
            sent = self.sent_at.pop_front();
        }
        self.acknowledged = next;
        self.next = self.next.max(next);
        self.window = match sent {
            Some(at) if now.since_ms(at) < PROMPT_MS => self.window + 1,
            Some(_) => self.window / 2,
            None => self.window,
        };
        self.window = self.window.clamp(self.window_min, WINDOW_CHUNKS_MAX);
    }

    /// Whether one more chunk may be on its way.
    fn has_room(&self) -> bool {
        self.next < self.acknowledged.saturating_add(self.window)
    }

    /// What is on its way counts as lost.
    fn repeat(&mut self) {
        self.next = self.acknowledged;
        self.sent_at.clear();
    }
}

impl MapPublisher {
    /// A publisher of `content`, to nobody yet. `header` is `position` encoded (and signed) as the
    /// peer expects it.
    #[must_use]
    pub fn new(map: MapName, content: MapContent, position: MapPosition, header: Vec<u8>) -> Self {
        Self {
            map,
            content,
            position,
            header,
            earlier: None,
            peer: None,
            transfer: None,
            retry: Retry::default(),
            chunking: Chunking::default(),
        }
    }

    /// How transfers that begin from now on are cut and sent.
    pub fn set_chunking(&mut self, chunking: Chunking) {
        self.chunking = chunking;
    }

    /// The present content has changed.
    pub fn publish(&mut self, content: MapContent, position: MapPosition, header: Vec<u8>) {
        let was_in_sync = self.is_in_sync();
        let before = std::mem::replace(&mut self.content, content);
        (self.position, self.header) = (position, header);
        if was_in_sync && before.digest() != self.content.digest() {
            self.earlier = Some(before);
        }
        if let Some(shown) = self.peer.as_ref().and_then(|peer| peer.shown) {
            self.begin_shown(Some(shown));
        }
    }

    /// The present content.
    #[must_use]
    pub fn content(&self) -> &MapContent {
        &self.content
    }

    /// The present version and digest.
    #[must_use]
    pub fn position(&self) -> MapPosition {
        self.position
    }

    /// The position of a version that the peer may have: the present content's, or what it had last.
    #[must_use]
    pub fn position_of(&self, version: Version) -> Option<MapPosition> {
        let known = self.peer.as_ref().and_then(|peer| peer.position);
        [Some(self.position), known].into_iter().flatten().find(|p| p.version == version)
    }

    /// The present header, as it is sent.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Whether the peer is known to have the present content.
    #[must_use]
    pub fn is_in_sync(&self) -> bool {
        let acknowledged = self.peer.as_ref().and_then(|peer| peer.position);
        acknowledged.is_some_and(|position| position.digest == self.content.digest())
    }

    /// Whether the peer may have an item of this key: it was sent one, and has not acknowledged to be without.
    #[must_use]
    pub fn peer_may_hold(&self, key: &str) -> bool {
        let has = |content: &MapContent| content.items().contains_key(key);
        if self.is_in_sync() {
            return has(&self.content);
        }
        let sent = self.transfer.as_ref().map(|transfer| &transfer.content);
        let acknowledged = self.peer.as_ref().and_then(|peer| peer.content.as_ref());
        self.earlier.as_ref().is_some_and(has)
            || sent.is_some_and(has)
            || acknowledged.is_some_and(|items| items.contains_key(key))
    }

    /// How often in a row an answer was overdue.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.retry.attempts()
    }

    /// The peer listens and has this; whatever was on its way is lost.
    pub fn begin(&mut self, position: Option<MapPosition>) {
        let known = self.peer.take().unwrap_or_default();
        let same = |a: Option<MapPosition>, b: Digest| a.is_some_and(|a| a.digest == b);
        let content = if same(position, self.content.digest()) {
            self.earlier = None;
            Some(self.content.digests().clone())
        } else if position.is_some_and(|position| same(known.position, position.digest)) {
            known.content
        } else {
            None
        };
        self.peer = Some(Peer { position, content, shown: None });
        self.abandon();
    }

    /// The peer listens and says in short what it has. Where that is not the present content it may be the one
    /// that is published next.
    pub fn begin_shown(&mut self, shown: Option<ShownContent>) {
        let digest = self.content.digest();
        let is_present = |shown: &ShownContent| shown.digest == digest.into();
        let position = shown.filter(is_present);
        self.begin(position.map(|shown| MapPosition { version: shown.version, digest }));
        if let Some(peer) = self.peer.as_mut().filter(|_| position.is_none()) {
            peer.shown = shown;
        }
    }

    /// The peer no longer listens. What it had is remembered.
    pub fn pause(&mut self) {
        self.abandon();
        if let Some(peer) = &mut self.peer
            && peer.position.is_none()
        {
            self.peer = None;
        }
    }

    fn abandon(&mut self) {
        self.transfer = None;
        self.retry.clear();
    }

    /// Whether a chunk is due.
    #[must_use]
    pub fn has_chunk(&self, now: MonotonicMs) -> bool {
        match &self.transfer {
            Some(transfer) => {
                let left = usize::try_from(transfer.next).is_ok_and(|n| n < transfer.chunks.len());
                transfer.probes || (left && transfer.has_room())
            }
            None => {
                let waits = self.retry.deadline().is_some_and(|due| due > now);
                self.peer.is_some() && !self.is_in_sync() && !waits
            }
        }
    }

    /// The next chunk to send, if one is due.
    ///
    /// # Errors
    /// When the content can't be encoded; see [`encode`].
    pub fn poll_chunk(&mut self, now: MonotonicMs) -> Result<Option<MapChunk>, EncodeError> {
        if !self.has_chunk(now) {
            return Ok(None);
        }
        if self.transfer.is_none() {
            self.transfer = Some(self.begin_transfer()?);
        }
        Ok(self.next_chunk(now))
    }

    fn begin_transfer(&self) -> Result<Transfer, EncodeError> {
        let base = self.peer.as_ref().and_then(|peer| peer.content.as_ref());
        let body = match base {
            Some(base) => self.content.delta_from(base, self.earlier.as_ref()),
            None => self.content.snapshot(),
        };
        let encoded = encode("map update", &body)?;
        let (first_bytes, chunk_bytes, window) = match self.chunking {
            Chunking::Generous => (MAP_CHUNK_BYTES_MAX, MAP_CHUNK_BYTES_MAX, WINDOW_CHUNKS_MIN),
            Chunking::Frugal => (FRUGAL_CHUNK_BYTES, FRUGAL_CHUNK_BYTES, 1),
            Chunking::Asked => (UNASKED_CHUNK_BYTES, FRUGAL_CHUNK_BYTES, 1),
        };
        let (first, rest) = encoded.split_at(first_bytes.min(encoded.len()));
        let chunks = std::iter::once(first).chain(rest.chunks(chunk_bytes));
        Ok(Transfer {
            position: self.position,
            header: self.header.clone(),
            content: self.content.clone(),
            chunks: chunks.map(<[u8]>::to_vec).collect(),
            acknowledged: 0,
            next: 0,
            window,
            window_min: window,
            sent_at: VecDeque::new(),
            chunking: self.chunking,
            probes: false,
            probed: false,
        })
    }

    fn next_chunk(&mut self, now: MonotonicMs) -> Option<MapChunk> {
        let transfer = self.transfer.as_mut()?;
        let probes = std::mem::take(&mut transfer.probes);
        let index = if probes { 0 } else { transfer.next };
        let body = transfer.chunks.get(usize::try_from(index).ok()?)?;
        let chunk = MapChunk {
            map: self.map,
            header: ByteBuf::from(transfer.header.clone()),
            index,
            count: u32::try_from(transfer.chunks.len()).ok()?,
            body: ByteBuf::from(body.clone()),
        };
        transfer.probed |= probes;
        if !probes {
            transfer.next += 1;
            transfer.sent_at.push_back(now);
        }
        self.arm(now);
        Some(chunk)
    }

    /// The peer says how far it is.
    pub fn handle_ack(&mut self, ack: &MapAck, now: MonotonicMs) {
        match ack {
            MapAck::Partial { version, next, window, .. } => {
                self.handle_partial(*version, *next, *window, now);
            }
            MapAck::Applied { version, .. } => self.handle_applied(*version),
        }
    }

    fn handle_partial(
        &mut self,
        version: Version,
        next: u32,
        window: Option<u32>,
        now: MonotonicMs,
    ) {
        let Some(transfer) = &mut self.transfer else { return };
        let count = u32::try_from(transfer.chunks.len()).unwrap_or(u32::MAX);
        // Beyond what was sent: the peer kept parts from before the link was lost.
        let plausible = transfer.position.version == version && next < count;
        let moved = next > transfer.acknowledged;
        let says_nothing = !moved && window.is_none() && !transfer.probed;
        if !plausible || next < transfer.acknowledged || says_nothing {
            return;
        }
        transfer.pace(next, now);
        transfer.probed = false;
        // Without a window it does not know, or no longer, that it pays: it takes what comes.
        if !moved {
            transfer.repeat();
            transfer.window = transfer.window_min;
        }
        if let Some(told) = window {
            transfer.window = told.min(WINDOW_CHUNKS_MAX);
        }
        self.retry.clear();
        // A peer that can afford no more now says when it can; nothing is overdue until then.
        if transfer.next > next || transfer.window > 0 {
            self.arm(now);
        }
    }

    /// An answer is due; from a peer that asks, which pays for each repeat, later than from others.
    fn arm(&mut self, now: MonotonicMs) {
        match self.transfer.as_ref().map(|transfer| transfer.chunking) {
            Some(Chunking::Asked) => {
                let doublings = self.retry.attempts().min(8);
                self.retry.arm_for((ASKED_WAIT_MS_FIRST << doublings).min(ASKED_WAIT_MS_MAX), now);
            }
            _ => self.retry.arm(now),
        }
    }

    fn handle_applied(&mut self, version: Version) {
        let Some(peer) = &mut self.peer else { return };
        // An acknowledgement that was overtaken by a later one says nothing new.
        if peer.position.is_some_and(|known| known.version > version) {
            return;
        }
        let of_this = |transfer: &mut Transfer| transfer.position.version == version;
        if let Some(Transfer { position, content, .. }) = self.transfer.take_if(of_this) {
            let digests = content.digests().clone();
            *peer = Peer { position: Some(position), content: Some(digests), shown: None };
            self.earlier = (position.digest != self.content.digest()).then_some(content);
            self.retry.clear();
        } else if version == self.position.version {
            let content = Some(self.content.digests().clone());
            *peer = Peer { position: Some(self.position), content, shown: None };
            self.earlier = None;
            self.abandon();
        }
    }

    /// The peer will not apply an update of `refusal.version`.
    pub fn handle_refusal(&mut self, refusal: &MapRefusal, now: MonotonicMs) {
        let of_this = |transfer: &mut Transfer| transfer.position.version == refusal.version;
        if self.transfer.take_if(of_this).is_none() {
            return;
        }
        if let Some(peer) = &mut self.peer {
            peer.content = None;
        }
        if refusal.reason == RefusalReason::BaseMismatch {
            self.retry.clear();
        } else {
            self.retry.expire(MonotonicMs(u64::MAX));
            self.retry.arm(now);
        }
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<MonotonicMs> {
        self.retry.deadline()
    }

    /// Repeats what was not acknowledged in time; to a peer that asks only the first chunk.
    pub fn handle_timeout(&mut self, now: MonotonicMs) {
        if self.retry.expire(now)
            && let Some(transfer) = &mut self.transfer
        {
            if transfer.chunking == Chunking::Asked && transfer.acknowledged > 0 {
                transfer.probes = true;
            } else {
                transfer.repeat();
                transfer.window = transfer.window_min;
            }
        }
    }
}

#[cfg(test)]
mod tests;
