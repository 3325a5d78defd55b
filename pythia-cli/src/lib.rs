//! The parts of `pythia-cli` that its commands share.
#![forbid(unsafe_code)]

pub mod hub;
