//! The receiving side of a map: applies an update whole or not at all, and never goes back.
//!
//! Greater version: applied. Equal version and digest: acknowledged again. Equal version with
//! another digest, or a lower one: refused. The caller checks the header's signature, persists the
//! change of a [`PreparedUpdate`], and only then has it accepted and sends the acknowledgement.

use super::map_content::MapContent;
use crate::limits::{MAP_CHUNK_BYTES_MAX, MAP_UPDATE_BYTES_MAX};
use crate::wire::{
    MapAck, MapBody, MapChunk, MapHeader, MapItem, MapName, MapPosition, MapRefusal, RefusalReason,
    Version, decode,
};
use serde_bytes::ByteBuf;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Parts of the largest update, in the smallest chunks that a publisher makes.
const CHUNKS_MAX: usize = MAP_UPDATE_BYTES_MAX / 1024;

/// The receiving side of one map.
#[derive(Debug)]
pub struct MapReceiver {
    map: MapName,
    content: MapContent,
    accepted: Option<Accepted>,
    assembly: Option<Assembly>,
    /// Nothing lower is ever accepted, even if the store has forgotten what was.
    fence: Version,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Accepted {
    position: MapPosition,
    /// As it came, with its signature.
    header: Vec<u8>,
}

/// An update whose parts are arriving.
#[derive(Debug)]
struct Assembly {
    position: MapPosition,
    count: usize,
    bytes: usize,
    parts: BTreeMap<usize, Vec<u8>>,
}

/// An update that is whole and genuine, but not in force before it is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedUpdate {
    /// New and changed items.
    pub upserts: Vec<MapItem>,
    /// Keys that are gone.
    pub tombstones: Vec<String>,
    /// `None` when only the header is new.
    content: Option<MapContent>,
    accepted: Accepted,
}

impl PreparedUpdate {
    /// The header as it came, with its signature.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        &self.accepted.header
    }

    /// The position that will be accepted.
    #[must_use]
    pub fn position(&self) -> MapPosition {
        self.accepted.position
    }

    /// Whether the content stays as it is.
    #[must_use]
    pub fn is_header_alone(&self) -> bool {
        self.content.is_none()
    }
}

/// What came of a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// Nothing to persist: send this.
    Ack(MapAck),
    /// Whole: persist the change, then [`MapReceiver::accept`] it.
    Complete(Box<PreparedUpdate>),
    /// Not applied: send this.
    Refused(MapRefusal),
}

impl MapReceiver {
    /// A receiver that has nothing.
    #[must_use]
    pub fn new(map: MapName) -> Self {
        Self::restore(map, BTreeMap::new(), None, Version::default())
    }

    /// A receiver as it was persisted. Items that do not have the header's digest (records were
    /// damaged) are kept as they are; the difference makes the publisher send a snapshot. `fence` is
    /// the greatest version that was ever accepted, as far as something else than the store knows.
    #[must_use]
    pub fn restore(
        map: MapName,
        items: BTreeMap<String, Vec<u8>>,
        accepted: Option<(MapPosition, Vec<u8>)>,
        fence: Version,
    ) -> Self {
        let accepted = accepted.map(|(position, header)| Accepted { position, header });
        Self { map, content: MapContent::new(items), accepted, assembly: None, fence }
    }

    /// The content that is in force.
    #[must_use]
    pub fn content(&self) -> &MapContent {
        &self.content
    }

    /// The accepted position.
    #[must_use]
    pub fn position(&self) -> Option<MapPosition> {
        self.accepted.as_ref().map(|accepted| accepted.position)
    }

    /// The accepted header as it came.
    #[must_use]
    pub fn header(&self) -> Option<&[u8]> {
        self.accepted.as_ref().map(|accepted| accepted.header.as_slice())
    }

    /// Whether the content is what was accepted last. False after records were damaged or lost.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let version = self.position().map(|position| position.version).unwrap_or_default();
        let digest = self.position().map(|position| position.digest);
        version >= self.fence && digest.is_none_or(|digest| digest == self.content.digest())
    }

    /// Forgets the half of an update that has come. Where it is kept instead, a publisher that begins
    /// the same update again is told where to go on.
    pub fn forget_assembly(&mut self) {
        self.assembly = None;
    }

    /// A header without content, whose origin the caller has checked. Comes out prepared when it
    /// is greater and names the content that is here.
    ///
    /// # Errors
    /// The refusal to send when the header is stale or conflicts.
    pub fn handle_header(
        &self,
        header: &MapHeader,
        bytes: &[u8],
    ) -> Result<Option<PreparedUpdate>, MapRefusal> {
        let position = header.position;
        match self.compare(position) {
            Err(reason) => Err(self.refusal(position, reason)),
            Ok(Ordering::Equal) => Ok(None),
            Ok(_) if position.digest != self.content.digest() => Ok(None),
            Ok(_) => Ok(Some(PreparedUpdate {
                upserts: vec![],
                tombstones: vec![],
                content: None,
                accepted: Accepted { position, header: bytes.to_vec() },
            })),
        }
    }

    /// A prepared update is durable: it is in force from now on.
    pub fn accept(&mut self, update: PreparedUpdate) -> MapAck {
        let position = update.position();
        if let Some(content) = update.content {
            self.content = content;
        }
        self.accepted = Some(update.accepted);
        MapAck::Applied { map: self.map, version: position.version }
    }

    /// An update that can't be made durable now.
    #[must_use]
    pub fn unavailable(&self, header: &MapHeader) -> MapRefusal {
        self.refusal(header.position, RefusalReason::Unavailable)
    }

    /// A part of an update, whose header's origin the caller has checked.
    pub fn handle_chunk(&mut self, chunk: &MapChunk, header: &MapHeader) -> Received {
        let position = header.position;
        match self.compare(position) {
            Err(reason) => return Received::Refused(self.refusal(position, reason)),
            // With damaged records the same content is applied again.
            Ok(Ordering::Equal) if self.is_whole() => {
                let version = position.version;
                return Received::Ack(MapAck::Applied { map: self.map, version });
            }
            Ok(_) => {}
        }
        match self.assemble(chunk, position) {
            Err(reason) => {
                self.assembly = None;
                Received::Refused(self.refusal(position, reason))
            }
            Ok(Assembled::Partial(next)) => {
                let version = position.version;
                Received::Ack(MapAck::Partial { map: self.map, version, next, window: None })
            }
            Ok(Assembled::Whole(bytes)) => self.prepare(&bytes, position, chunk.header.to_vec()),
        }
    }

    /// Whether a position is greater than or equal to what is accepted.
    fn compare(&self, offered: MapPosition) -> Result<Ordering, RefusalReason> {
        if offered.version < self.fence {
            return Err(RefusalReason::Stale);
        }
        let Some(accepted) = self.position() else { return Ok(Ordering::Greater) };
        match offered.version.cmp(&accepted.version) {
            Ordering::Less => Err(RefusalReason::Stale),
            Ordering::Equal if offered.digest != accepted.digest => Err(RefusalReason::Conflict),
            other => Ok(other),
        }
    }

    fn refusal(&self, offered: MapPosition, reason: RefusalReason) -> MapRefusal {
        let accepted = self.header().map(|header| ByteBuf::from(header.to_vec()));
        MapRefusal { map: self.map, version: offered.version, reason, accepted }
    }

    fn assemble(
        &mut self,
        chunk: &MapChunk,
        position: MapPosition,
    ) -> Result<Assembled, RefusalReason> {
        let malformed = |_| RefusalReason::Malformed;
        let index = usize::try_from(chunk.index).map_err(malformed)?;
        let count = usize::try_from(chunk.count).map_err(malformed)?;
        let sizes = count <= CHUNKS_MAX && chunk.body.len() <= MAP_CHUNK_BYTES_MAX;
        if index >= count || !sizes {
            return Err(RefusalReason::Malformed);
        }
        let fits =
            |assembly: &&mut Assembly| assembly.position == position && assembly.count == count;
        if self.assembly.as_mut().filter(fits).is_none() {
            self.assembly = Some(Assembly { position, count, bytes: 0, parts: BTreeMap::new() });
        }
        let Some(assembly) = &mut self.assembly else { return Err(RefusalReason::Malformed) };
        if let Some(before) = assembly.parts.insert(index, chunk.body.to_vec()) {
            assembly.bytes -= before.len();
        }
        assembly.bytes += chunk.body.len();
        if assembly.bytes > MAP_UPDATE_BYTES_MAX {
            return Err(RefusalReason::Malformed);
        }
        if assembly.parts.len() == count {
            let whole = assembly.parts.values().flatten().copied().collect();
            self.assembly = None;
            return Ok(Assembled::Whole(whole));
        }
        let next = (0..count).find(|index| !assembly.parts.contains_key(index)).unwrap_or(count);
        Ok(Assembled::Partial(u32::try_from(next).map_err(malformed)?))
    }

    fn prepare(&self, bytes: &[u8], position: MapPosition, header: Vec<u8>) -> Received {
        let refused = |reason| Received::Refused(self.refusal(position, reason));
        let Ok(body) = decode::<MapBody>("map update", bytes, MAP_UPDATE_BYTES_MAX) else {
            return refused(RefusalReason::Malformed);
        };
        let content = match self.content.after(&body) {
            Ok(content) => content,
            Err(reason) => return refused(reason),
        };
        if content.digest() != position.digest || !content.is_within_limits() {
            return refused(RefusalReason::Malformed);
        }
        let (upserts, tombstones) = content.changes_from(self.content.digests());
        let accepted = Accepted { position, header };
        let content = Some(content);
        Received::Complete(Box::new(PreparedUpdate { upserts, tombstones, content, accepted }))
    }
}

enum Assembled {
    Partial(u32),
    Whole(Vec<u8>),
}

#[cfg(test)]
mod tests;
