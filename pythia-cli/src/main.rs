//! `pythia-cli`: runs, scores and takes apart the Pythia language models on a CPU.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    pythia_cli::main()
}
