//! signature (being written)
