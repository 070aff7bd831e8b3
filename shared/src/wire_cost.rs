//! What a message, a connection and a failed attempt cost on the wire, before they are sent.
//!
//! A model for deciding, not an account: what was really spent is counted by the link
//! (`io::mqtt::MqttClient::wire_bytes`). It assumes IPv4, TCP with time stamps and no loss; the
//! tests of the link hold it against packets that a kernel sent.

/// IPv4 without options (RFC 791).
pub const IPV4_HEADER_BYTES: u64 = 20;

/// IPv6 without extensions (RFC 8200).
pub const IPV6_HEADER_BYTES: u64 = 40;

/// TCP without options (RFC 9293).
pub const TCP_HEADER_BYTES: u64 = 20;

/// The time stamps that Linux puts on every segment (RFC 7323), padded.
pub const TCP_TIMESTAMP_BYTES: u64 = 12;

/// What a SYN carries beyond that: largest segment, selective acknowledgements, window scale.
pub const SYN_EXTRA_BYTES: u64 = 8;

/// A segment's IP and TCP headers, and so a bare acknowledgement.
pub const SEGMENT_HEADER_BYTES: u64 = IPV4_HEADER_BYTES + TCP_HEADER_BYTES + TCP_TIMESTAMP_BYTES;

/// A SYN, or the answer to one.
pub const SYN_BYTES: u64 = SEGMENT_HEADER_BYTES + SYN_EXTRA_BYTES;

/// A refusal: a reset without time stamps.
pub const RESET_BYTES: u64 = IPV4_HEADER_BYTES + TCP_HEADER_BYTES;

/// What one segment carries: Ethernet's 1500 bytes without the headers.
pub const SEGMENT_PAYLOAD_BYTES_MAX: u64 = 1500 - SEGMENT_HEADER_BYTES;

/// A question to the name service and its answer, headers included; most names are asked for twice
/// (IPv4 and IPv6).
pub const NAME_LOOKUP_BYTES: u64 = 150;

/// The plaintext of one TLS record (RFC 8446, 5.1).
const TLS_RECORD_PAYLOAD_BYTES_MAX: u64 = 16 * 1024;

/// A TLS 1.3 record besides its plaintext: header (5), content type (1), tag (16).
const TLS_RECORD_BYTES: u64 = 22;

/// Type and flags of an MQTT packet.
const MQTT_TYPE_BYTES: u64 = 1;

/// Of an MQTT 5 PUBLISH at QoS 0 besides topic and payload: the topic's length (2) and the length of
/// no properties (1).
const PUBLISH_FIELD_BYTES: u64 = 3;

/// From SYN to the granted subscription over a resumed TLS session, both ways; measured against the
/// embedded broker.
pub const RESUMED_CONNECTION_BYTES: u64 = 1_530;

/// The same with certificates; measured against the embedded broker.
pub const FULL_CONNECTION_BYTES: u64 = 2_500;

/// An attempt that nobody answers: SYNs after 0, 1 and 3 seconds.
pub const UNANSWERED_ATTEMPT_BYTES: u64 = 3 * SYN_BYTES;

/// What one PUBLISH at QoS 0 costs both ways: MQTT and TLS around the payload, the segments that
/// carry it, and the other end's acknowledgements of them.
#[must_use]
pub fn message_bytes(topic_bytes: usize, payload_bytes: usize) -> u64 {
    let body =
        PUBLISH_FIELD_BYTES.saturating_add(topic_bytes as u64).saturating_add(payload_bytes as u64);
    let packet = MQTT_TYPE_BYTES.saturating_add(length_bytes(body)).saturating_add(body);
    let records = packet.div_ceil(TLS_RECORD_PAYLOAD_BYTES_MAX);
    stream_bytes(packet.saturating_add(records.saturating_mul(TLS_RECORD_BYTES)))
}

/// What so many bytes of TCP payload, written at once, cost both ways.
fn stream_bytes(bytes: u64) -> u64 {
    let segments = bytes.div_ceil(SEGMENT_PAYLOAD_BYTES_MAX);
    // At least every second segment is acknowledged (RFC 9293, 3.8.6.3).
    let acknowledgements = segments.div_ceil(2);
    let headers = segments.saturating_add(acknowledgements).saturating_mul(SEGMENT_HEADER_BYTES);
    bytes.saturating_add(headers)
}

/// Bytes of MQTT's variable length of `body`.
fn length_bytes(body: u64) -> u64 {
    match body {
        0..128 => 1,
        128..16_384 => 2,
        16_384..2_097_152 => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_small_message_costs_two_segments_and_what_is_wrapped_around_it() {
        // 1 + 1 + 3 + 11 + 100 of MQTT, 22 of TLS, a segment and its acknowledgement.
        assert_eq!(message_bytes(11, 100), 116 + 22 + 52 + 52);
    }

    #[test]
    fn four_kilobytes_take_three_segments_and_two_acknowledgements() {
        assert_eq!(message_bytes(11, 4096), 1 + 2 + 3 + 11 + 4096 + 22 + 5 * 52);
    }

    #[test]
    fn the_largest_payload_takes_two_tls_records() {
        let bytes = message_bytes(11, 16 * 1024);
        assert_eq!(bytes, 1 + 3 + 3 + 11 + 16 * 1024 + 2 * 22 + (12 + 6) * 52);
    }

    proptest! {
        #[test]
        fn a_longer_message_never_costs_less(topic in 0..80usize, payload in 0..20_000usize) {
            prop_assert!(message_bytes(topic, payload) < message_bytes(topic, payload + 1));
            prop_assert!(message_bytes(topic, payload) <= message_bytes(topic + 1, payload));
        }
    }

    #[test]
    fn an_absurd_length_does_not_overflow() {
        assert!(message_bytes(usize::MAX, usize::MAX) >= u64::MAX / 2);
    }
}
