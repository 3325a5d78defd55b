#![no_main]

pythia_fuzz::target!("config");
