//! certificate (being written)
