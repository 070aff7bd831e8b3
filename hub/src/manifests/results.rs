//! What a manifest may say of its pods' results: which sink takes them, and what is left out.
//!
//! Does not know which sinks there are: a hub without one of that name holds the results back.

use super::labels::Invalid;
use crate::api::{DeadbandSpec, ResultRouteSpec, ThinningSpec};
use shared::limits::RESULT_ROUTES_MAX;
use shared::model::{DEFAULT_SINK, ResultRoute, Thinning};

const PATH: &str = "spec.results";

/// # Errors
/// The first route that can't be meant as it is written.
pub(super) fn routes_of(documents: Vec<ResultRouteSpec>) -> Result<Vec<ResultRoute>, Invalid> {
    if documents.len() > RESULT_ROUTES_MAX {
        let problem = format!("{} routes are over {RESULT_ROUTES_MAX}", documents.len());
        return Err((PATH.to_owned(), problem));
    }
    documents.into_iter().enumerate().map(|(index, document)| route_of(index, document)).collect()
}

fn route_of(index: usize, document: ResultRouteSpec) -> Result<ResultRoute, Invalid> {
    let at = |field: &str| format!("{PATH}[{index}].{field}");
    let thinning = match document.thinning {
        Some(thinning) => Some(thinning_of(thinning).map_err(|(field, why)| (at(field), why))?),
        None => None,
    };
    let sink = document.sink.unwrap_or_else(|| DEFAULT_SINK.to_owned());
    let route = ResultRoute { topic: document.topic, sink, thinning };
    route.validate().map_err(|invalid| (at(invalid.field), invalid.problem))?;
    Ok(route)
}

fn thinning_of(document: ThinningSpec) -> Result<Thinning, (&'static str, String)> {
    match (document.latest_every_seconds, document.every_nth, document.deadband) {
        (Some(seconds), None, None) => Ok(Thinning::LatestEverySeconds(seconds)),
        (None, Some(count), None) => Ok(Thinning::EveryNth(count)),
        (None, None, Some(DeadbandSpec { field, by })) => {
            let by_millionths = millionths(by).map_err(|why| ("thinning.deadband.by", why))?;
            Ok(Thinning::Deadband { field, by_millionths })
        }
        _ => {
            let problem = "expected exactly one of latestEverySeconds, everyNth and deadband";
            Err(("thinning", problem.to_owned()))
        }
    }
}

/// Below it every multiple of a millionth is told from its neighbours in a double.
const DEADBAND_MAX: f64 = 1e9;

fn millionths(by: f64) -> Result<u64, String> {
    let scaled = (by * 1e6).round();
    let exact = (scaled / 1e6 - by).abs() <= by.abs() * 1e-12;
    if !(by > 0.0 && by <= DEADBAND_MAX && exact) {
        return Err(format!("expected more than 0, at most 1e9, in millionths; found {by}"));
    }
    // Positive, whole and below 2^53.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "just checked")]
    Ok(scaled as u64)
}

#[cfg(test)]
mod tests {
    use super::super::parse_documents;
    use super::*;
    use insta::assert_snapshot;

    fn manifest(results: &str) -> String {
        format!(
            "apiVersion: hinterland.dev/v1alpha1\nkind: InferenceWorkload\nmetadata: {{name: ocr}}\n\
             spec:\n  template: {{spec: {{containers: [{{name: a, command: [a]}}]}}}}\n\
             {results}\n"
        )
    }

    fn routes(results: &str) -> Vec<ResultRoute> {
        let manifests = parse_documents("w.yaml", &manifest(results)).unwrap();
        manifests.workloads.into_values().next().unwrap().results
    }

    fn refused(results: &str) -> String {
        parse_documents("w.yaml", &manifest(results)).unwrap_err().to_string()
    }

    #[test]
    fn every_kind_of_thinning_is_read() {
        let text = "  results:\n  - {topic: 'a/*', thinning: {latestEverySeconds: 30}}\n  \
            - {topic: b, sink: lake, thinning: {everyNth: 10}}\n  \
            - {topic: c, thinning: {deadband: {field: /value, by: 0.5}}}\n  - {topic: '*'}";
        let deadband = Thinning::Deadband { field: "/value".to_owned(), by_millionths: 500_000 };
        let route = |topic: &str, sink: &str, thinning| ResultRoute {
            topic: topic.to_owned(),
            sink: sink.to_owned(),
            thinning,
        };
        let expected = [
            route("a/*", "default", Some(Thinning::LatestEverySeconds(30))),
            route("b", "lake", Some(Thinning::EveryNth(10))),
            route("c", "default", Some(deadband)),
            route("*", "default", None),
        ];
        assert_eq!(routes(text), expected);
    }

    #[test]
    fn routes_are_no_part_of_the_revision() {
        let revision = |results: &str| {
            let manifests = parse_documents("w.yaml", &manifest(results)).unwrap();
            manifests.workloads.into_values().next().unwrap().revision
        };
        assert_eq!(revision(""), revision("  results: [{topic: '*', sink: lake}]"));
    }

    #[test]
    fn what_can_not_be_meant_is_refused_with_its_field() {
        assert_snapshot!(refused("  results:\n  - topic: 'a b'"), @"w.yaml:7: spec.results[0].topic: `a b` is not a pattern: expected a topic, as in `counts/gate-3`, or the beginning of topics and `*`, as in `detections/*`");
        assert_snapshot!(refused("  results:\n  - {topic: a, thinning: {everyNth: 2, latestEverySeconds: 1}}"), @"w.yaml:7: spec.results[0].thinning: expected exactly one of latestEverySeconds, everyNth and deadband");
        assert_snapshot!(refused("  results:\n  - {topic: a, thinning: {everyNth: 1}}"), @"w.yaml:7: spec.results[0].thinning.everyNth: expected 2 to 1000000, found 1");
        assert_snapshot!(refused("  results:\n  - {topic: a, sink: My Lake}"), @"w.yaml:7: spec.results[0].sink: `My Lake` is not a valid name: expected 1 to 63 characters of a-z, 0-9 and '-', beginning and ending with a letter or digit");
        for by in ["0", "-1", ".nan", ".inf", "1e10", "0.00000001"] {
            let text = format!(
                "  results:\n  - {{topic: a, thinning: {{deadband: {{field: /v, by: {by}}}}}}}"
            );
            assert!(refused(&text).contains("spec.results[0].thinning.deadband.by"), "{by}");
        }
        let many = "  - {topic: a}\n".repeat(RESULT_ROUTES_MAX + 1);
        assert!(refused(&format!("  results:\n{many}")).contains("65 routes are over 64"));
    }
}
