//! What the tests, the demo and the benchmarks have in common.
//!
//! | module | what it holds |
//! |---|---|
//! | [`real`] | starters of real processes: hub, agent, brokers |

pub mod real;
