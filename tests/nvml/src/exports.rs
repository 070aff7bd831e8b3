//! The C functions, as `nvml.h` declares them.

mod devices;
mod events;
mod fields;
mod readings;
