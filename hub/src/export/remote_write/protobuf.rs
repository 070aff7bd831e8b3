//! The bytes of a `prometheus.WriteRequest` (remote write 1.0), by hand: four messages of two fields.
//! <https://prometheus.io/docs/specs/prw/remote_write_spec/>, `prompb/remote.proto`, `prompb/types.proto`.
//!
//! ```text
//! WriteRequest { repeated TimeSeries timeseries = 1; }
//! TimeSeries   { repeated Label labels = 1; repeated Sample samples = 2; }
//! Label        { string name = 1; string value = 2; }
//! Sample       { double value = 1; int64 timestamp = 2; }
//! ```

/// Field 1 and 2, as bytes with a length.
const BYTES_1: u8 = 0x0a;
const BYTES_2: u8 = 0x12;
/// Field 1 as eight bytes.
const DOUBLE_1: u8 = 0x09;
/// Field 2 as a varint.
const VARINT_2: u8 = 0x10;

/// Appends one series to a request: labels sorted by name, samples (milliseconds, value) by time.
pub(super) fn put_series<'a>(
    request: &mut Vec<u8>,
    labels: impl Iterator<Item = (&'a str, &'a str)>,
    samples: impl Iterator<Item = (i64, f64)>,
) {
    let (mut series, mut part) = (Vec::new(), Vec::new());
    for (name, value) in labels {
        part.clear();
        put_bytes(&mut part, BYTES_1, name.as_bytes());
        put_bytes(&mut part, BYTES_2, value.as_bytes());
        put_bytes(&mut series, BYTES_1, &part);
    }
    for (at, value) in samples {
        part.clear();
        part.push(DOUBLE_1);
        part.extend(value.to_le_bytes());
        part.push(VARINT_2);
        put_varint(&mut part, at.cast_unsigned());
        put_bytes(&mut series, BYTES_2, &part);
    }
    put_bytes(request, BYTES_1, &series);
}

fn put_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_bytes_of_the_specification() {
        // timeseries { labels { name: "__name__" value: "up" } samples { value: 1.5 timestamp: 300 } },
        // by the encoding rules of protobuf.
        let expected = "0a1e0a0e0a085f5f6e616d655f5f12027570120c09000000000000f83f10ac02";
        let mut request = Vec::new();
        put_series(&mut request, [("__name__", "up")].into_iter(), [(300, 1.5)].into_iter());
        let hex: String = request.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected);
    }
}
