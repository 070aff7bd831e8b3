//! Which pod gets which GPUs, CPU and memory, and why not.
