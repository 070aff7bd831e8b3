//! Starters of real processes.

pub mod broker_case;
pub mod mosquitto;
