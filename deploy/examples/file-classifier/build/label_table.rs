//! Reads the tables in the sources of `magika` and writes them as ours: one row per output.
//!
//! The sources are machine-written, one item a line, and pinned by digest, so plain line matching is
//! enough; anything that does not match what is expected stops the build. String literals are carried
//! over as they stand, quotes and escapes included.

use std::collections::HashMap;
use std::fmt::Write as _;

type TableResult<T> = Result<T, String>;

/// The rows of `standard_v3_3`; another count means that the reading went wrong.
const OUTPUTS_EXPECTED: usize = 214;

/// What is known of one content type, as source text of Rust literals.
struct ContentType {
    label: String,
    mime_type: String,
    description: String,
    is_text: String,
}

/// The content types by variant name, and the variants in their order.
struct ContentTypes {
    variants: Vec<String>,
    by_variant: HashMap<String, ContentType>,
}

/// Returns Rust source: `EMPTY`, `TEXT` and `UNKNOWN` of type `ContentType`, and `OUTPUTS`, a slice of
/// `Output` in the order of the model's outputs.
///
/// # Errors
///
/// Says which item of which source could not be read.
pub(crate) fn generate(model_source: &str, content_source: &str) -> TableResult<String> {
    let content_types = read_content_types(content_source)?;
    let mut generated = String::new();
    for (name, variant) in [("EMPTY", "Empty"), ("TEXT", "Txt"), ("UNKNOWN", "Unknown")] {
        let literal = content_types.literal(variant)?;
        let _ = writeln!(generated, "pub(crate) static {name}: ContentType = {literal};");
    }
    generated.push_str("pub(crate) static OUTPUTS: &[Output] = &[\n");
    for row in output_rows(model_source, &content_types)? {
        let _ = writeln!(generated, "    {row},");
    }
    generated.push_str("];\n");
    Ok(generated)
}

/// One `Output` literal per output of the model. Thresholds and overwrites are listed by content
/// type, outputs by label, hence the way over the variant's position.
fn output_rows(model_source: &str, content_types: &ContentTypes) -> TableResult<Vec<String>> {
    let labels = enum_variants(model_source, "enum Label {")?;
    let thresholds = thresholds(model_source)?;
    let overwrites = overwrites(model_source)?;
    let count = content_types.variants.len();
    if labels.len() != OUTPUTS_EXPECTED || thresholds.len() != count || overwrites.len() != count {
        return Err(format!(
            "expected {OUTPUTS_EXPECTED} labels and {count} thresholds and overwrites; found {}, {} and {}",
            labels.len(),
            thresholds.len(),
            overwrites.len()
        ));
    }
    labels.iter().map(|label| output_row(label, content_types, &thresholds, &overwrites)).collect()
}

fn output_row(
    label: &str,
    content_types: &ContentTypes,
    thresholds: &[String],
    overwrites: &[String],
) -> TableResult<String> {
    let position = content_types.variants.iter().position(|variant| variant == label);
    let row = position.and_then(|at| Some((thresholds.get(at)?, overwrites.get(at)?)));
    let (threshold, overwrite) = row.ok_or(format!("label `{label}` is no content type"))?;
    let inferred = content_types.literal(label)?;
    let confirmed = content_types.literal(overwrite)?;
    Ok(format!("Output {{ inferred: {inferred}, threshold: {threshold}, confirmed: {confirmed} }}"))
}

impl ContentTypes {
    fn literal(&self, variant: &str) -> TableResult<String> {
        let known = self.by_variant.get(variant);
        let ContentType { label, mime_type, description, is_text } =
            known.ok_or(format!("content type `{variant}` is not described"))?;
        Ok(format!(
            "ContentType {{ label: {label}, mime_type: {mime_type}, description: {description}, \
             is_text: {is_text} }}"
        ))
    }
}

fn read_content_types(source: &str) -> TableResult<ContentTypes> {
    let variants = enum_variants(source, "pub enum ContentType {")?;
    let mut by_static_name = described_types(source)?;
    let mut by_variant = HashMap::new();
    for line in source.lines() {
        let arm = line.trim().strip_prefix("ContentType::").and_then(|arm| arm.split_once(" => &"));
        if let Some((variant, static_name)) = arm {
            let described = by_static_name.remove(static_name.trim_end_matches(','));
            let described = described.ok_or(format!("`{static_name}` is not described"))?;
            by_variant.insert(variant.to_owned(), described);
        }
    }
    Ok(ContentTypes { variants, by_variant })
}

/// The `static NAME: TypeInfo = TypeInfo { ... };` items by name.
fn described_types(source: &str) -> TableResult<HashMap<String, ContentType>> {
    let mut described = HashMap::new();
    for item in source.split("pub(crate) static ").skip(1) {
        let (name, body) =
            item.split_once(": TypeInfo = TypeInfo {").ok_or("a static is no type")?;
        let body = body.split_once("\n};").ok_or(format!("`{name}` has no end"))?.0;
        let content_type = ContentType {
            label: field(name, body, "label")?,
            mime_type: field(name, body, "mime_type")?,
            description: field(name, body, "description")?,
            is_text: field(name, body, "is_text")?,
        };
        described.insert(name.to_owned(), content_type);
    }
    Ok(described)
}

fn field(type_name: &str, body: &str, field_name: &str) -> TableResult<String> {
    let prefix = format!("{field_name}: ");
    let value = body.lines().find_map(|line| line.trim().strip_prefix(&prefix)?.strip_suffix(','));
    Ok(value.ok_or(format!("`{type_name}` has no field `{field_name}`"))?.to_owned())
}

/// The variants of the enum whose declaration ends in `opening`, in order.
fn enum_variants(source: &str, opening: &str) -> TableResult<Vec<String>> {
    let body = source.split_once(opening).ok_or(format!("`{opening}` is missing"))?.1;
    let body = body.split_once("\n}").ok_or(format!("`{opening}` has no end"))?.0;
    let is_variant = |line: &&str| !line.is_empty() && !line.starts_with(['/', '#']);
    let lines = body.lines().map(str::trim).filter(is_variant);
    Ok(lines.map(|line| line.trim_end_matches(',').to_owned()).collect())
}

fn thresholds(source: &str) -> TableResult<Vec<String>> {
    let line = source.lines().find(|line| line.starts_with("const THRESHOLDS:"));
    let line = line.ok_or("`THRESHOLDS` is missing")?;
    let values = line.split_once("= [").and_then(|(_, rest)| rest.strip_suffix("];"));
    let values = values.ok_or("`THRESHOLDS` is not one line")?;
    Ok(values.split(", ").map(str::to_owned).collect())
}

fn overwrites(source: &str) -> TableResult<Vec<String>> {
    let body = source.split_once("const OVERWRITE_MAP:").ok_or("`OVERWRITE_MAP` is missing")?.1;
    let body = body.split_once("];").ok_or("`OVERWRITE_MAP` has no end")?.0;
    let variant = |line: &str| Some(line.trim().strip_prefix("ContentType::")?.to_owned());
    Ok(body.lines().filter_map(variant).map(|name| name.trim_end_matches(',').to_owned()).collect())
}
