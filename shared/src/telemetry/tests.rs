//! The codec as a whole: what is told of any batches, what is not, and what it costs.

use super::*;
use crate::limits::LOG_RECORD_BYTES_MAX;
use crate::model::ClockQuality;
use crate::wire::{SequenceNumber, decode, encode};
use proptest::prelude::*;

/// A name of each kind: declared, cumulative, and two that nobody declared.
const NAMES: [&str; 6] = [
    "node_cpu_seconds_total",
    "node_memory_MemAvailable_bytes",
    "DCGM_FI_DEV_SM_CLOCK",
    "requests_seconds_count",
    "own_ratio",
    "own_things",
];

fn any_series() -> impl Strategy<Value = Series> {
    let plain = (prop::sample::select(&NAMES[..]), 0..3_u8)
        .prop_map(|(name, gpu)| Series::new(name).with("gpu", &gpu.to_string()));
    let bounds = prop::sample::select(&["0.01", "0.1", "1", "+Inf", "odd"][..]);
    let bucket = (bounds, 0..2_u8).prop_map(|(bound, pod)| {
        Series::new("requests_seconds_bucket").with("le", bound).with("pod", &pod.to_string())
    });
    prop_oneof![3 => plain, 2 => bucket]
}

fn any_value() -> impl Strategy<Value = f64> {
    prop_oneof![
        8 => (0..1_000_000_u32).prop_map(f64::from),
        4 => (-1000..1000_i32).prop_map(|n| f64::from(n) / 8.0),
        2 => -1e6..1e6_f64,
        1 => any::<f64>(),
        1 => prop::sample::select(&[f64::NAN, f64::INFINITY, -0.0, 0.0, f64::MAX, 1e-300, 9e15][..]),
    ]
}

fn any_sample() -> impl Strategy<Value = Sample> {
    let values = prop::collection::btree_map(any_series(), any_value(), 0..12);
    (any::<u32>(), any::<bool>(), 0..2_u64, -5..5_i64, values).prop_map(
        |(at, synchronised, boot, offset_ms, values)| {
            let quality = if synchronised {
                ClockQuality::Synchronised
            } else {
                ClockQuality::Unsynchronised
            };
            let clock = ClockStamp { quality, boot: boot.wrapping_neg(), offset_ms };
            Sample { at: UnixMs(u64::from(at)), clock, values: values.into() }
        },
    )
}

fn any_batches() -> impl Strategy<Value = Vec<Batch>> {
    let batch = prop::collection::vec(any_sample(), 1..5).prop_map(|samples| Batch { samples });
    prop::collection::vec(batch, 1..8)
}

/// What a receiver must get for `sent`: the same, rounded to the declared resolution.
fn assert_told(sent: &Batch, got: &Batch) -> Result<(), TestCaseError> {
    prop_assert_eq!(sent.samples.len(), got.samples.len());
    for (sent, got) in sent.samples.iter().zip(&got.samples) {
        prop_assert_eq!((sent.at, sent.clock), (got.at, got.clock));
        let finite: Vec<_> = sent.values.iter().filter(|(_, value)| value.is_finite()).collect();
        prop_assert!(finite.iter().map(|(series, _)| *series).eq(got.values.series().iter()));
        for ((series, sent), got) in finite.into_iter().zip(got.values.numbers()) {
            match schema::metric_named(&series.name) {
                Some(metric) => {
                    let half = metric.resolution.step() / 2.0 + sent.abs() * f64::EPSILON;
                    prop_assert!((sent - got).abs() <= half, "{:?}: {} as {}", series, sent, got);
                }
                None => prop_assert_eq!(sent.to_bits(), got.to_bits(), "{:?}", series),
            }
        }
    }
    Ok(())
}

/// Appends each batch and hands it over, as agent and hub do.
fn carry(encoder: &mut BatchEncoder, sequence: SequenceNumber, batch: &Batch) -> Vec<u8> {
    let staged = encoder.encode(batch, sequence).unwrap();
    let record = staged.record().to_vec();
    encoder.commit(staged);
    record
}

/// A node whose values move a little: 24 series, 6 samples a batch.
fn plausible(number: u64) -> Batch {
    let sample = |index: u64| {
        let tick = number * 6 + index;
        let mut values = BTreeMap::new();
        for gpu in 0..8_u64 {
            let wobble = (tick * 7919 + gpu * 31) % 17;
            let on = |name: &str| Series::new(name).with("gpu", &gpu.to_string());
            values.insert(on("DCGM_FI_DEV_POWER_USAGE"), 100.0 + wobble as f64);
            values.insert(on("DCGM_FI_DEV_MEM_CLOCK"), 6251.0);
            values.insert(on("own_total"), (tick * 1000 + wobble) as f64 / 100.0);
        }
        let clock = ClockStamp { quality: ClockQuality::Synchronised, boot: 7, offset_ms: 1 << 40 };
        Sample { at: UnixMs(1_700_000_000_000 + tick * 10_000), clock, values: values.into() }
    };
    Batch { samples: (0..6).map(sample).collect() }
}

proptest! {
    #[test]
    fn whatever_is_measured_arrives_rounded_and_both_sides_know_the_same(
        batches in any_batches(),
        first in 1..130_u64,
    ) {
        let (mut encoder, mut decoder) = (BatchEncoder::default(), BatchDecoder::default());
        for (sequence, batch) in (first..).zip(&batches) {
            let record = carry(&mut encoder, sequence, batch);
            let got = decoder.decode(sequence, &record).unwrap();
            assert_told(batch, &got)?;
            prop_assert_eq!(encoder.model(), decoder.model());
            let stored = encode("decoder", &decoder).unwrap();
            let restored: BatchDecoder = decode("decoder", &stored, 1 << 20).unwrap();
            prop_assert_eq!(&restored, &decoder);
            decoder = restored;
        }
    }

    #[test]
    fn what_was_rounded_once_is_told_as_it_is(batches in any_batches()) {
        let (mut encoder, mut decoder) = (BatchEncoder::default(), BatchDecoder::default());
        let (mut again, mut decoder_again) = (BatchEncoder::default(), BatchDecoder::default());
        for (sequence, batch) in (1..).zip(&batches) {
            let got = decoder.decode(sequence, &carry(&mut encoder, sequence, batch)).unwrap();
            let record = carry(&mut again, sequence, &got);
            prop_assert_eq!(decoder_again.decode(sequence, &record).unwrap(), got);
        }
    }

    #[test]
    fn samples_say_the_same_and_hold_the_series_once_that_both_have(
        earlier in any_sample(),
        later in any_sample(),
    ) {
        let told = |sample: &Sample| -> Vec<(Series, u64)> {
            sample.values.iter().map(|(series, value)| (series.clone(), value.to_bits())).collect()
        };
        let mut sharing = later.clone();
        sharing.values.share_series(&earlier.values);
        prop_assert_eq!(told(&sharing), told(&later));
        for series in sharing.values.series().iter() {
            if let Some(same) = earlier.values.series().iter().find(|same| *same == series) {
                prop_assert!(Arc::ptr_eq(&series.name, &same.name));
                prop_assert!(Arc::ptr_eq(&series.labels, &same.labels));
            }
        }
    }

    #[test]
    fn no_damage_of_a_record_is_more_than_an_error(
        number in 0..3_u64,
        at in any::<prop::sample::Index>(),
        with in prop::collection::vec(any::<u8>(), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let (mut encoder, mut decoder) = (BatchEncoder::default(), BatchDecoder::default());
        for sequence in 1..=number {
            let record = carry(&mut encoder, sequence, &plausible(sequence));
            decoder.decode(sequence, &record).unwrap();
        }
        let mut record = carry(&mut encoder, number + 1, &plausible(number + 1));
        let at = at.index(record.len());
        record.iter_mut().skip(at).zip(with).for_each(|(byte, with)| *byte ^= with);
        let mut cut_decoder = decoder.clone();
        let _ = decoder.decode(number + 1, &record);
        let _ = cut_decoder.decode(number + 1, &record[..cut.index(record.len())]);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(
        number in 1..=2_u8,
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let record = [&[number], bytes.as_slice()].concat();
        let _ = BatchDecoder::default().decode(1, &record);
        let _ = decode::<BatchDecoder>("decoder", &bytes, 1 << 10);
    }
}

#[test]
fn each_run_begins_with_a_record_that_needs_nothing_before_it() {
    let mut encoder = BatchEncoder::default();
    for sequence in 1..=481 {
        let record = carry(&mut encoder, sequence, &plausible(sequence));
        let alone = BatchDecoder::default().decode(sequence, &record);
        assert_eq!(alone.is_ok(), [1, 241, 481].contains(&sequence), "{sequence}");
    }
}

#[test]
fn after_a_gap_or_damage_records_are_refused_until_the_next_keyframe() {
    let mut encoder = BatchEncoder::default();
    let mut records: Vec<Vec<u8>> =
        (1..=242).map(|sequence| carry(&mut encoder, sequence, &plausible(sequence))).collect();
    records[20].truncate(5);
    for lost in [5, 21] {
        let mut decoder = BatchDecoder::default();
        let mut refused = vec![];
        for (sequence, record) in (1..).zip(&records).filter(|(sequence, _)| *sequence != lost) {
            if decoder.decode(sequence, record).is_err() {
                refused.push(sequence);
            }
        }
        assert_eq!(refused, (lost..=240).filter(|n| *n != lost).collect::<Vec<_>>());
    }
}

#[test]
fn a_record_that_was_not_appended_was_never_made() {
    let mut encoder = BatchEncoder::default();
    let first = carry(&mut encoder, 1, &plausible(1));
    drop(encoder.encode(&plausible(9), 2).unwrap());
    let second = carry(&mut encoder, 2, &plausible(2));
    let mut decoder = BatchDecoder::default();
    decoder.decode(1, &first).unwrap();
    decoder.decode(2, &second).unwrap();
}

#[test]
fn after_a_reset_the_next_record_needs_nothing_before_it() {
    let mut encoder = BatchEncoder::default();
    carry(&mut encoder, 1, &plausible(1));
    encoder.reset();
    let record = carry(&mut encoder, 2, &plausible(2));
    BatchDecoder::default().decode(2, &record).unwrap();
}

#[test]
fn a_steady_clock_and_steady_series_cost_nothing() {
    let batch = |number: u64| {
        let mut batch = plausible(number);
        for sample in &mut batch.samples {
            sample.values.retain(|series| &*series.name == "DCGM_FI_DEV_MEM_CLOCK");
        }
        batch
    };
    let mut encoder = BatchEncoder::default();
    let sizes: Vec<usize> =
        (1..=6).map(|sequence| carry(&mut encoder, sequence, &batch(sequence)).len()).collect();
    assert!(sizes[0] > 50 && sizes[1] < 8 && sizes[5] <= 4, "{sizes:?}");
}

#[test]
fn a_few_bytes_can_not_claim_more_values_than_a_batch_may_have() {
    let values = (0..512).map(|n| (Series::new("own_things").with("n", &n.to_string()), 1.0));
    let sample = Sample { values: values.collect(), ..Sample::default() };
    let batch = |samples: usize| Batch { samples: vec![sample.clone(); samples] };
    let (mut encoder, mut decoder) = (BatchEncoder::default(), BatchDecoder::default());
    for sequence in 1..=5 {
        let record = carry(&mut encoder, sequence, &batch(2));
        decoder.decode(sequence, &record).unwrap();
    }
    assert!(matches!(encoder.encode(&batch(65), 6), Err(CodecError::TooLarge("values"))));
    let mut record = carry(&mut encoder, 6, &batch(64));
    decoder.clone().decode(6, &record).unwrap();
    assert!(record.len() < 16, "{}", record.len());
    // The number of samples follows the bit that says whether it is a keyframe.
    record[1] |= 0b0111_1111;
    assert!(decoder.decode(6, &record).is_err());
}

#[test]
fn what_one_record_can_not_hold_is_parted_and_nothing_of_it_is_lost() {
    let values: Values = (0..1500)
        .map(|n| (Series::new(&format!("metric_{}_bytes", n * 7919 % 9973)), f64::from(n) / 7.0))
        .collect();
    let sample = Sample { values, ..Sample::default() };
    let (mut encoder, mut decoder) = (BatchEncoder::default(), BatchDecoder::default());
    let (mut parts, mut found, mut sequence) = (vec![Batch { samples: vec![sample; 3] }], 0, 1);
    while let Some(part) = parts.pop() {
        match encoder.encode(&part, sequence) {
            Ok(staged) => {
                assert!(staged.record().len() <= LOG_RECORD_BYTES_MAX);
                let got = decoder.decode(sequence, staged.record()).unwrap();
                found += got.samples.iter().map(|sample| sample.values.len()).sum::<usize>();
                encoder.commit(staged);
                sequence += 1;
            }
            Err(error) => {
                assert!(matches!(error, CodecError::TooLarge(_)), "{error}");
                let (first, second) = part.halves().unwrap();
                parts.extend([second, first]);
            }
        }
    }
    assert_eq!(found, 4500);
}

#[test]
fn a_series_with_an_endless_name_is_left_out_and_the_others_are_told() {
    let endless = Series::new("a").with("label", &"x".repeat(LOG_RECORD_BYTES_MAX));
    let values = [(endless, 1.0), (Series::new("b"), 2.0)].into();
    let batch = Batch { samples: vec![Sample { values, ..Sample::default() }] };
    let record = carry(&mut BatchEncoder::default(), 1, &batch);
    let got = BatchDecoder::default().decode(1, &record).unwrap();
    assert_eq!(got.samples[0].values, [(Series::new("b"), 2.0)].into());
}

#[test]
fn an_hour_of_sixty_series_fits_one_record() {
    let samples = (0..60).flat_map(|number| plausible(number).samples).collect();
    let record = carry(&mut BatchEncoder::default(), 1, &Batch { samples });
    assert!(record.len() < LOG_RECORD_BYTES_MAX / 2, "{}", record.len());
}

#[test]
fn a_codec_of_the_future_is_named() {
    let error = BatchDecoder::default().decode(1, &[9, 0]).unwrap_err();
    assert_eq!(error.to_string(), "telemetry codec Some(9) is not known here");
}

/// A keyframe and the record after it, as they were first written.
const GOLDEN: [&str; 2] = [
    "0280405f050003302e3100056f63722d300108776e5f726174696f001f726571756573745f6475726174696f6e5f\
     7365636f6e64735f6275636b65741905636f756e74050000010b0400010e1801500003060304281001010e020110\
     32010e02000112aac5e7f2db1018f9c4004140091b0070021240113f4623e808ccc462be802170c16042f184a0200010",
    "02007f7ffa37ff3b9f7ebe7c80",
];

/// What they say.
fn golden_batch(number: u64) -> Batch {
    let sample = |index: u64| {
        let tick = number * 2 + index;
        let pod = |series: Series| series.with("namespace", "default").with("pod", "ocr-0");
        let bucket = |le: &str| pod(Series::new("request_duration_seconds_bucket").with("le", le));
        let values = [
            (
                Series::new("node_cpu_seconds_total").with("mode", "user"),
                12.34 + (tick * tick) as f64,
            ),
            (Series::new("own_ratio"), 0.125 * tick as f64),
            (bucket("0.1"), 10.0 + (tick % 3) as f64),
            (bucket("+Inf"), 20.0 + 3.0 * tick as f64),
            (pod(Series::new("request_duration_seconds_count")), 20.0 + 3.0 * tick as f64),
        ];
        let clock = ClockStamp { quality: ClockQuality::Synchronised, boot: 0xb007, offset_ms: -5 };
        Sample { at: UnixMs(1_700_000_000_000 + tick * 10_000), clock, values: values.into() }
    };
    Batch { samples: vec![sample(0), sample(1)] }
}

#[test]
fn what_the_packed_codec_wrote_is_decoded_for_ever() {
    let (mut encoder, mut decoder) = (BatchEncoder::default(), BatchDecoder::default());
    let written = [1, 2].map(|sequence| carry(&mut encoder, sequence, &golden_batch(sequence)));
    let hexadecimal =
        |bytes: &Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let written = written.each_ref().map(hexadecimal);
    for (sequence, golden) in (1..).zip(GOLDEN) {
        let bytes: Vec<u8> = (0..golden.len() / 2)
            .map(|at| u8::from_str_radix(&golden[2 * at..2 * at + 2], 16).unwrap())
            .collect();
        let batch = decoder.decode(sequence, &bytes);
        assert_eq!(batch.ok(), Some(golden_batch(sequence)), "should be {written:?}");
    }
    assert_eq!(written, GOLDEN, "records are written otherwise");
}
