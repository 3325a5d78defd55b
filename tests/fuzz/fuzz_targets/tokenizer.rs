#![no_main]

pythia_fuzz::target!("tokenizer");
