//! The life of pods.
