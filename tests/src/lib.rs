//! What the tests, the demo and the benchmarks have in common.
//!
//! | module | what it holds |
//! |---|---|
//! | [`figures`] | what `make bench` measures |
//! | [`real`] | starters of real processes: hub, agent, brokers |
//! | [`sim`] | the simulated world |
//! | [`story`] | the main job, step by step, on real processes |

pub mod figures;
pub mod real;
pub mod sim;
pub mod story;
