//! The core, step by step (being written).
