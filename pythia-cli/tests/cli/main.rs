//! The program as its users meet it, and the Hub as the program meets it.

mod command;
mod commands;
mod diff;
mod errors;
mod hub;
mod hub_faults;
#[cfg(unix)]
mod hub_python;
mod hub_run;
mod hub_server;
mod process;
mod pull;
mod quantize;
mod verify;
