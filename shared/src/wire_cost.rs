//! What a message costs on the wire. Pure arithmetic on the sizes of headers.
//!
//! A PUBLISH at QoS 0 travels as one TLS record in one or more TCP segments, and the peer's TCP
//! acknowledges it. Sources: MQTT 5 §3.3, RFC 8446 §5.2, RFC 9293, RFC 7323.

/// Of a PUBLISH besides its payload: type and length (3), the topic's length (2), no properties (1),
/// and a topic of about 16 bytes.
const PUBLISH_BYTES: u64 = 22;

/// Of a TLS 1.3 record: header (5), content type (1), tag (16).
const TLS_RECORD_BYTES: u64 = 22;

/// Of a packet: IPv4 (20), TCP (20), time stamps (12).
const PACKET_BYTES: u64 = 52;

/// Payload of a full segment on Ethernet.
const SEGMENT_BYTES: u64 = 1448;

/// Bytes of one message of `payload_bytes`, both ways.
#[must_use]
pub fn message_bytes(payload_bytes: usize) -> u64 {
    let stream = payload_bytes as u64 + PUBLISH_BYTES + TLS_RECORD_BYTES;
    let segments = stream.div_ceil(SEGMENT_BYTES);
    // A receiver acknowledges every other segment at least.
    stream + segments * PACKET_BYTES + segments.div_ceil(2) * PACKET_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_message_costs_a_segment_and_its_acknowledgement() {
        assert_eq!(message_bytes(100), 100 + 44 + 104);
        assert_eq!(message_bytes(12_000), 12_000 + 44 + 9 * 52 + 5 * 52);
    }
}
