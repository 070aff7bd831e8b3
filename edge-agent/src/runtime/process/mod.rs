//! Pods as plain processes, each under a shim of its own.
