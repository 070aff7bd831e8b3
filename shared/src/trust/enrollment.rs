//! enrollment (being written)
