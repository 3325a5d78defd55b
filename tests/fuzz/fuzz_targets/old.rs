#![no_main]

pythia_fuzz::target!("old");
