//! The inventory of GPUs.
