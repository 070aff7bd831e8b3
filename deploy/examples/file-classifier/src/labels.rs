//! What the model's outputs mean, and what is made of its best guess.
//!
//! The table is written by build.rs from the package that carries the model, so the two can't
//! disagree. Magika's rule: a guess below its label's threshold becomes plain text or unknown; one
//! above it may stand for a more general type (random bytes are "unknown").

/// A type of file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ContentType {
    /// Magika's name of the type.
    pub(crate) label: &'static str,
    pub(crate) mime_type: &'static str,
    /// For people.
    pub(crate) description: &'static str,
    pub(crate) is_text: bool,
}

/// One output of the model.
#[derive(Debug)]
pub(crate) struct Output {
    /// What the model says by it.
    inferred: ContentType,
    /// The score, 0 to 1, from which on that is believed.
    threshold: f32,
    /// What is answered then.
    confirmed: ContentType,
}

include!(concat!(env!("OUT_DIR"), "/labels.rs"));

impl Output {
    /// The final answer for this output at this score.
    pub(crate) fn decide(&'static self, score: f32) -> &'static ContentType {
        if score >= self.threshold {
            &self.confirmed
        } else if self.inferred.is_text {
            &TEXT
        } else {
            &UNKNOWN
        }
    }
}

/// The position and the value of the greatest score; the last of equal ones, as Magika has it. `None`
/// without scores.
pub(crate) fn best_of(scores: &[f32]) -> Option<(usize, f32)> {
    scores.iter().copied().enumerate().max_by(|left, right| left.1.total_cmp(&right.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(label: &str) -> &'static Output {
        OUTPUTS.iter().find(|output| output.inferred.label == label).unwrap()
    }

    #[test]
    fn the_table_has_magikas_214_outputs_in_alphabetical_order() {
        assert_eq!(OUTPUTS.len(), 214);
        assert!(OUTPUTS.is_sorted_by_key(|output| output.inferred.label));
        assert_eq!(OUTPUTS[0].inferred.description, "3GPP multimedia file");
        assert_eq!(output("rust").inferred.mime_type, "application/x-rust");
    }

    #[test]
    fn a_guess_at_its_threshold_is_believed_and_one_below_is_not() {
        assert_eq!(output("rust").decide(0.5).label, "rust");
        assert_eq!(output("rust").decide(0.499).label, "txt");
        assert_eq!(output("png").decide(0.499).label, "unknown");
        assert_eq!(output("markdown").decide(0.74).label, "txt");
        assert_eq!(output("markdown").decide(0.75).label, "markdown");
    }

    #[test]
    fn random_content_is_answered_as_what_it_looks_like_to_people() {
        assert_eq!(output("randombytes").decide(0.99).label, "unknown");
        assert_eq!(output("randomtxt").decide(0.99).label, "txt");
    }

    #[test]
    fn the_best_score_is_found_and_none_among_none() {
        assert_eq!(best_of(&[0.1, 0.7, 0.2]), Some((1, 0.7)));
        assert_eq!(best_of(&[]), None);
    }
}
