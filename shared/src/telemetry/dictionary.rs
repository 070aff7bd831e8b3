//! The series of a run, in their order, with the form of their values and what they stand on.
//!
//! It travels in keyframes: strings once each, labels in sets that share their ends, metrics and
//! words of the schema by number. A histogram's buckets are cumulative: each stands on the bucket
//! below, so that only its own observations are told; its `_count` stands on the last bucket.
//!
//! Reading is bounded by [`EXPANDED_BYTES_MAX`], [`SERIES_BYTES_MAX`] and [`BATCH_SERIES_MAX`],
//! whatever the bytes claim.

use super::form::Form;
use super::{BATCH_SERIES_MAX, CodecError, Sample, Series, schema};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Bytes of all strings and label sets of a dictionary once they are spelled out. 4096 series with
/// sets of their own of 256 bytes.
const EXPANDED_BYTES_MAX: usize = 1 << 20;

/// Bytes of one series' name and labels; a series with more is left out. Prometheus' own names and
/// labels have about 200.
const SERIES_BYTES_MAX: usize = 2048;

/// A series in the dictionary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) series: Series,
    pub(super) form: Form,
    /// The position of the series below it in its histogram; always an earlier one.
    pub(super) base: Option<usize>,
    /// Whether another stands on it.
    pub(super) is_base: bool,
}

/// The series of a run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Dictionary {
    pub(super) entries: Vec<Entry>,
    /// The same series in ascending order, as samples have them.
    pub(super) ascending: Arc<[Series]>,
    /// Where each of `ascending` is among the entries.
    pub(super) positions: Vec<usize>,
    /// As it travels.
    pub(super) bytes: Vec<u8>,
}

/// Whether a value can be told: a number, of a series whose name is not over its limit.
pub(super) fn is_written(series: &Series, value: f64) -> bool {
    value.is_finite() && series.name.len() + set_bytes(&*series.labels) <= SERIES_BYTES_MAX
}

fn set_bytes<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> usize {
    labels.into_iter().map(|(label, value)| label.len() + value.len() + 1).sum()
}

fn malformed<T>(what: &'static str) -> Result<T, CodecError> {
    Err(CodecError::Malformed(what))
}

impl Dictionary {
    /// The dictionary of the series in `samples`. Forms are those of `before`, as far as they fit.
    pub(super) fn of(samples: &[Sample], before: &Self) -> Result<Self, CodecError> {
        let mut series: BTreeMap<&Series, Form> = BTreeMap::new();
        // A form that a later value needs may not fit an earlier one; it only ever rises.
        let mut has_risen = true;
        while std::mem::take(&mut has_risen) {
            for (name, value) in samples.iter().flat_map(|sample| sample.values.iter()) {
                if is_written(name, value) {
                    let form = series.entry(name).or_insert_with(|| before.form_to_begin(name));
                    let fitting = form.fitting([value]);
                    has_risen |= fitting != *form;
                    *form = fitting;
                }
            }
        }
        if series.len() > BATCH_SERIES_MAX {
            return Err(CodecError::TooLarge("series"));
        }
        let mut chosen: Vec<(&Series, Form)> = series.into_iter().collect();
        chosen.sort_by_cached_key(|(series, _)| sort_key(series));
        let chosen: Vec<(Series, Form)> =
            chosen.into_iter().map(|(series, form)| (series.clone(), form)).collect();
        let bytes = Writer::new(&chosen).write(&chosen)?;
        Ok(Self::new(chosen, bytes))
    }

    /// A digit behind the point that was needed once is kept; a declared resolution is tried anew.
    fn form_to_begin(&self, series: &Series) -> Form {
        let usual = Form::usual(schema::resolution(&series.name));
        let known = self.position(series).and_then(|position| self.entries.get(position));
        let known = known.filter(|_| matches!(usual, Form::Decimal(_)));
        known.map_or(usual, |entry| entry.form.max(usual))
    }

    /// What [`Self::of`] wrote.
    pub(super) fn read(bytes: Vec<u8>) -> Result<Self, CodecError> {
        let mut reader = Reader { bytes: &bytes, expanded: 0, strings: Vec::new() };
        let series = reader.read()?;
        Ok(Self::new(series, bytes))
    }

    fn new(series: Vec<(Series, Form)>, bytes: Vec<u8>) -> Self {
        let mut last: BTreeMap<Family, usize> = BTreeMap::new();
        let mut entries: Vec<Entry> = Vec::with_capacity(series.len());
        for (position, (series, form)) in series.into_iter().enumerate() {
            let family = family(&series);
            let below = family.as_ref().and_then(|family| last.get(family).copied());
            let is_alike = |below: &usize| entries.get(*below).is_some_and(|e| e.form == form);
            let base = below.filter(is_alike);
            if let Some(family) = family {
                last.insert(family, position);
            }
            if let Some(base) = base.and_then(|base| entries.get_mut(base)) {
                base.is_base = true;
            }
            entries.push(Entry { series, form, base, is_base: false });
        }
        let named = |(position, entry): (usize, &Entry)| (entry.series.clone(), position);
        let by_series: BTreeMap<Series, usize> = entries.iter().enumerate().map(named).collect();
        let (ascending, positions): (Vec<_>, _) = by_series.into_iter().unzip();
        Self { entries, ascending: ascending.into(), positions, bytes }
    }

    /// Where a series is among the entries.
    pub(super) fn position(&self, series: &Series) -> Option<usize> {
        self.positions.get(self.ascending.binary_search(series).ok()?).copied()
    }
}

/// What the buckets and the count of one histogram have in common: a stem, and labels without `le`.
type Family = (String, Vec<(String, String)>);

fn family(series: &Series) -> Option<Family> {
    let name: &str = &series.name;
    let stem = match name.strip_suffix("_bucket") {
        Some(stem) if series.labels.contains_key("le") => stem,
        _ => name.strip_suffix("_count")?,
    };
    let labels = series.labels.iter().filter(|(label, _)| *label != "le");
    let labels = labels.map(|(label, value)| (label.clone(), value.clone())).collect();
    Some((stem.to_owned(), labels))
}

/// Labels and their values.
type Pairs<'a> = Vec<(&'a str, &'a str)>;

/// Sets of labels with equal ends stand together, a histogram's by their bounds, and what has no
/// bound last.
fn sort_key(series: &Series) -> (Pairs<'_>, u64, Pairs<'_>, &str) {
    let labels = || series.labels.iter().rev().map(|(label, value)| (&**label, &**value));
    let bound = series.labels.get("le").and_then(|bound| bound.parse::<f64>().ok());
    // The bits of floats that are not negative have the order of the floats.
    let bound = bound.filter(|bound| *bound >= 0.0).map_or(u64::MAX, f64::to_bits);
    (
        labels().filter(|(label, _)| *label != "le").collect(),
        bound,
        labels().collect(),
        &series.name,
    )
}

fn put_number(bytes: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        bytes.push(low_7_bits(number) | 0x80);
        number >>= 7;
    }
    bytes.push(low_7_bits(number));
}

fn low_7_bits(number: usize) -> u8 {
    let [.., byte] = (number & 0x7f).to_be_bytes();
    byte
}

/// Writes a dictionary.
struct Writer<'a> {
    /// Strings that the schema does not number, in order.
    strings: BTreeMap<&'a str, usize>,
    bytes: Vec<u8>,
}

impl<'a> Writer<'a> {
    fn new(series: &'a [(Series, Form)]) -> Self {
        let mut strings: BTreeSet<&str> = BTreeSet::new();
        for (series, _) in series {
            if schema::number_of_name(&series.name).is_none() {
                strings.insert(&series.name);
            }
            let words = series.labels.iter().flat_map(|(label, value)| [label, value]);
            strings.extend(words.map(|w| &**w).filter(|w| schema::number_of_word(w).is_none()));
        }
        let strings = strings.into_iter().zip(0..).collect();
        Self { strings, bytes: Vec::new() }
    }

    fn write(mut self, series: &[(Series, Form)]) -> Result<Vec<u8>, CodecError> {
        let mut expanded = self.put_strings();
        let sets = series.chunk_by(|(one, _), (two, _)| one.labels == two.labels);
        put_number(&mut self.bytes, sets.clone().count());
        let mut before: Vec<(&str, &str)> = Vec::new();
        for set in sets {
            let Some((first, _)) = set.first() else { continue };
            before = self.put_labels(first, &before);
            expanded += set_bytes(&*first.labels);
            put_number(&mut self.bytes, set.len());
            set.iter().for_each(|(series, form)| self.put_metric(series, *form));
        }
        let fits = expanded <= EXPANDED_BYTES_MAX;
        fits.then_some(self.bytes).ok_or(CodecError::TooLarge("bytes of names"))
    }

    fn put_strings(&mut self) -> usize {
        put_number(&mut self.bytes, self.strings.len());
        let mut before: &[u8] = &[];
        let mut expanded = 0;
        for string in self.strings.keys() {
            let string = string.as_bytes();
            let shared = before.iter().zip(string).take_while(|(one, two)| one == two).count();
            put_number(&mut self.bytes, shared);
            put_number(&mut self.bytes, string.len() - shared);
            self.bytes.extend(string.iter().skip(shared));
            expanded += string.len();
            before = string;
        }
        expanded
    }

    /// Labels from the last to the first: how many are those of the set before, and the others.
    fn put_labels<'b>(
        &mut self,
        series: &'b Series,
        before: &[(&str, &str)],
    ) -> Vec<(&'b str, &'b str)> {
        let labels: Vec<(&str, &str)> =
            series.labels.iter().rev().map(|(label, value)| (&**label, &**value)).collect();
        let shared = labels.iter().zip(before).take_while(|(one, two)| one == two).count();
        put_number(&mut self.bytes, shared);
        put_number(&mut self.bytes, labels.len() - shared);
        for (label, value) in labels.iter().skip(shared) {
            self.put_word(label);
            self.put_word(value);
        }
        labels
    }

    fn put_word(&mut self, word: &str) {
        let number = match schema::number_of_word(word) {
            Some(number) => number << 1,
            None => self.strings.get(word).map_or(0, |number| number << 1 | 1),
        };
        put_number(&mut self.bytes, number);
    }

    fn put_metric(&mut self, series: &Series, form: Form) {
        let name: &str = &series.name;
        let number = match schema::number_of_name(name) {
            Some(number) => number << 2,
            None => self.strings.get(name).map_or(0, |number| number << 2 | 2),
        };
        let is_usual = form == Form::usual(schema::resolution(name));
        put_number(&mut self.bytes, number | usize::from(!is_usual));
        if !is_usual {
            self.bytes.push(form.number());
        }
    }
}

/// Reads a dictionary.
struct Reader<'a> {
    bytes: &'a [u8],
    /// Bytes of strings and labels so far, spelled out.
    expanded: usize,
    strings: Vec<Arc<str>>,
}

impl Reader<'_> {
    fn read(&mut self) -> Result<Vec<(Series, Form)>, CodecError> {
        self.read_strings()?;
        let (mut all, mut labels) = (Vec::new(), Vec::new());
        for _ in 0..self.count()? {
            self.read_labels(&mut labels)?;
            let set: BTreeMap<String, String> = labels
                .iter()
                .map(|(label, value)| (label.to_string(), value.to_string()))
                .collect();
            let set = Arc::new(set);
            for _ in 0..self.count()? {
                let (name, form) = self.metric()?;
                all.push((Series { name, labels: Arc::clone(&set) }, form));
            }
            if all.len() > BATCH_SERIES_MAX {
                return malformed("too many series");
            }
        }
        if self.bytes.is_empty() { Ok(all) } else { malformed("something follows the series") }
    }

    fn byte(&mut self) -> Result<u8, CodecError> {
        let Some((byte, rest)) = self.bytes.split_first() else {
            return malformed("the series end too early");
        };
        self.bytes = rest;
        Ok(*byte)
    }

    fn number(&mut self) -> Result<usize, CodecError> {
        let mut number: usize = 0;
        // Four groups of 7 bits are 2^28: more than a record has of anything.
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            number |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        malformed("a number of more than 28 bits")
    }

    /// How many follow; each takes at least a byte.
    fn count(&mut self) -> Result<usize, CodecError> {
        let count = self.number()?;
        if count <= self.bytes.len() {
            Ok(count)
        } else {
            malformed("more is claimed than there is")
        }
    }

    fn expand(&mut self, bytes: usize) -> Result<(), CodecError> {
        self.expanded += bytes;
        if self.expanded <= EXPANDED_BYTES_MAX { Ok(()) } else { malformed("names are too long") }
    }

    fn read_strings(&mut self) -> Result<(), CodecError> {
        let mut before: Vec<u8> = Vec::new();
        for _ in 0..self.count()? {
            let (shared, own) = (self.number()?, self.count()?);
            if shared > before.len() {
                return malformed("a string shares more than there is");
            }
            if shared + own > SERIES_BYTES_MAX {
                return malformed("a string is too long");
            }
            self.expand(shared + own)?;
            before.truncate(shared);
            let Some((text, rest)) = self.bytes.split_at_checked(own) else {
                return malformed("a string ends too early");
            };
            before.extend(text);
            self.bytes = rest;
            let Ok(string) = std::str::from_utf8(&before) else {
                return malformed("a string is not UTF-8");
            };
            self.strings.push(string.into());
        }
        Ok(())
    }

    fn read_labels(&mut self, labels: &mut Vec<Label>) -> Result<(), CodecError> {
        let (shared, own) = (self.number()?, self.count()?);
        if shared > labels.len() {
            return malformed("labels share more than there is");
        }
        labels.truncate(shared);
        for _ in 0..own {
            labels.push((self.word()?, self.word()?));
        }
        let bytes = labels.iter().map(|(label, value)| label.len() + value.len() + 1).sum();
        if bytes > SERIES_BYTES_MAX {
            return malformed("labels are too long");
        }
        self.expand(bytes)
    }

    fn word(&mut self) -> Result<Arc<str>, CodecError> {
        let number = self.number()?;
        let word = if number & 1 == 0 {
            schema::word_of_number(number >> 1).map(Arc::from)
        } else {
            self.strings.get(number >> 1).cloned()
        };
        word.ok_or(CodecError::Malformed("a word that does not exist"))
    }

    fn metric(&mut self) -> Result<(Arc<str>, Form), CodecError> {
        let number = self.number()?;
        let name = if number & 2 == 0 {
            schema::name_of_number(number >> 2).map(Arc::from)
        } else {
            self.strings.get(number >> 2).cloned()
        };
        let name: Arc<str> = name.ok_or(CodecError::Malformed("a metric that does not exist"))?;
        let declared = schema::resolution(&name);
        if number & 1 == 0 {
            return Ok((name, Form::usual(declared)));
        }
        let form = Form::of_number(u64::from(self.byte()?), declared);
        Ok((name, form.ok_or(CodecError::Malformed("a form of values that does not exist"))?))
    }
}

/// A label and its value.
type Label = (Arc<str>, Arc<str>);
