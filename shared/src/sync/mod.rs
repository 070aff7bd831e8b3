//! The map, the log and the call, and one session machine a side.
