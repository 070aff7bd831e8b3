//! The agent of Hinterland: keeps inference pods running on one edge node, with or without a
//! network.
//!
//! | module | what it holds |
//! |---|---|
//! | [`core`] | events and the present moment in, effects in order out (pure) |
//! | [`audit`] | who read logs and ran commands (pure) |
//! | [`placement`] | which pod gets which GPUs, CPU and memory, and why not (pure) |
//! | [`pods`] | the life of pods: starts, probes, backoff, stops (pure) |
//! | [`ports`] | the traits by which the shell reaches runtime and GPUs |
//! | [`results`] | what pods hand in: the endpoint, routes, thinning |
//! | [`runtime`] | how pods run: `process`, with a shim of their own, or `cri`, in containers |
//! | [`shell`] | the loop that hands events to the core and performs its effects |
//! | [`config`], [`cli`] | one TOML file, and the commands |
//! | [`devices`] | the devices that the configuration names |
//! | [`gpu`] | the inventory: NVML, or an explicit simulation |
//! | [`heat`] | which pods rest while a GPU is too hot (pure) |
//! | [`pressure`] | which pods leave while memory or disk run out (pure) |
//! | [`models`] | the models on this node, by their content |
//! | [`scaling`] | how many pods a workload has, by what they have to do (pure) |

pub mod audit;
pub mod cli;
pub mod config;
pub mod core;
pub mod devices;
pub mod gpu;
pub mod heat;
pub mod models;
mod owner_socket;
pub mod placement;
pub mod pods;
pub mod ports;
pub mod pressure;
pub mod results;
pub mod runtime;
pub mod scaling;
pub mod shell;
