//! Starters of real processes.
