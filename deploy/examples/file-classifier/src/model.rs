//! The network: loads it from the binary's own bytes and runs it.
//!
//! It knows tensors only; what goes in and what comes out means is said elsewhere.

use std::sync::Arc;

use anyhow::Context as _;
use tract_onnx::onnx;
use tract_onnx::prelude::*;

use crate::features::FEATURE_TOKENS;
use crate::labels::OUTPUTS;

static MODEL_ONNX: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/model.onnx"));

/// Why the model gave no scores.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModelError {
    /// The bytes in the binary are no model that this program can run.
    #[error("loading the model")]
    Load(#[source] TractError),
    /// The network failed on an input.
    #[error("running the model")]
    Run(#[source] TractError),
    /// The network and the table of labels do not belong together.
    #[error("the model gave {found} scores, and {} labels are known", OUTPUTS.len())]
    ScoreCount {
        /// Scores that came out.
        found: usize,
    },
}

/// The network, optimised and ready to run; cheap to share.
#[derive(Clone)]
pub(crate) struct Model {
    plan: Arc<TypedRunnableModel>,
}

impl Model {
    /// Parses and optimises the network for one file at a time. Takes tens of milliseconds of CPU.
    ///
    /// # Errors
    ///
    /// [`ModelError::Load`].
    pub(crate) fn load() -> Result<Self, ModelError> {
        let plan = Self::plan().map_err(ModelError::Load)?;
        Ok(Self { plan })
    }

    fn plan() -> TractResult<Arc<TypedRunnableModel>> {
        let mut bytes = MODEL_ONNX;
        onnx()
            .model_for_read(&mut bytes)?
            .with_input_fact(0, i32::fact([1, FEATURE_TOKENS]).into())?
            .into_optimized()?
            .into_runnable()
    }

    /// One score, 0 to 1, per label. Takes some milliseconds of CPU.
    ///
    /// # Errors
    ///
    /// [`ModelError::Run`] if the network fails, as it does on a wrong number of tokens, and
    /// [`ModelError::ScoreCount`].
    pub(crate) fn scores(&self, tokens: &[i32]) -> Result<Vec<f32>, ModelError> {
        let scores = self.run(tokens).map_err(ModelError::Run)?;
        if scores.len() != OUTPUTS.len() {
            return Err(ModelError::ScoreCount { found: scores.len() });
        }
        Ok(scores)
    }

    fn run(&self, tokens: &[i32]) -> TractResult<Vec<f32>> {
        let input = Tensor::from_shape(&[1, FEATURE_TOKENS], tokens)?;
        let outputs = self.plan.run(tvec!(input.into()))?;
        let scores = outputs.first().context("the network has no output")?;
        Ok(scores.view().as_slice::<f32>()?.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_loads_and_gives_a_probability_for_each_label() {
        let scores = Model::load().unwrap().scores(&[256; FEATURE_TOKENS]).unwrap();
        assert_eq!(scores.len(), OUTPUTS.len());
        assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-3);
    }

    #[test]
    fn a_wrong_number_of_tokens_is_an_error() {
        let error = Model::load().unwrap().scores(&[256; 7]).unwrap_err();
        assert!(matches!(error, ModelError::Run(_)), "{error}");
    }
}
