//! Packets of MQTT 5, as the embedded broker takes them from nodes and a node from its broker.

use bytes::BytesMut;
use rmqtt_codec::v5::Codec as BrokerCodec;
use rumqttc::mqttbytes::v5::Codec as NodeCodec;
use shared::limits::MQTT_PACKET_BYTES_MAX;
use tokio_util::codec::Decoder;

/// Which end reads, how many bytes it reads at once (0: all), and what the other end sends.
///
/// # Panics
/// When it matters to the broker how the packets were cut on their way. (The node's client library passes
/// over a packet that ends inside a field, as soon as more has come.)
pub fn mqtt(data: &[u8]) {
    let [side, bytes_at_once, stream @ ..] = data else { return };
    let cut = match *bytes_at_once {
        0 => stream.len().max(1),
        some => usize::from(some),
    };
    if side.is_multiple_of(2) {
        let codec = || BrokerCodec::new(MQTT_PACKET_BYTES_MAX, 0);
        assert_eq!(packets(codec(), stream, cut), packets(codec(), stream, stream.len().max(1)));
    } else {
        let max_incoming_size = Some(MQTT_PACKET_BYTES_MAX);
        packets(NodeCodec { max_incoming_size, max_outgoing_size: None }, stream, cut);
    }
}

/// What is read before the stream ends or says what nobody may.
fn packets<D: Decoder>(mut decoder: D, stream: &[u8], bytes_at_once: usize) -> Vec<D::Item> {
    let (mut packets, mut read) = (Vec::new(), BytesMut::new());
    for bytes in stream.chunks(bytes_at_once) {
        read.extend_from_slice(bytes);
        loop {
            match decoder.decode(&mut read) {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break,
                Err(_) => return packets,
            }
        }
    }
    packets
}
