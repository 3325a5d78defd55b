#![no_main]

pythia_fuzz::target!("index");
