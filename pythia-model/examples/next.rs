//! The ten most likely next tokens after a prompt.
//!
//! ```text
//! cargo run --release -p pythia-model --example next -- FOLDER "The capital of France is"
//! ```
//!
//! The folder holds `config.json`, `model.safetensors` and `tokenizer.json`, as a Pythia model's repository does.

use pythia_model::{Model, Tokenizer, Workspace, next};
use pythia_tensor::Team;
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, prompt] = &arguments[..] else {
        return Err("expected two arguments: a model's folder and a prompt".into());
    };
    // The weights are mapped, not read: opening takes milliseconds whatever the size.
    let model = Model::open(folder)?;
    let tokenizer = Tokenizer::from_file(Path::new(folder).join("tokenizer.json"))?;
    let ids = tokenizer.encode(prompt)?;

    let team = Team::new(0)?;
    // A model has more rows of logits than there are tokens; those are not listed.
    let best =
        team.enter(|crew| next(&model, crew, &mut Workspace::new(), &ids, 10, tokenizer.vocab_size()))?;
    for (id, log_prob) in best {
        println!("{:6.2} %  {:?}", 100.0 * log_prob.exp(), tokenizer.token(id).unwrap_or_default());
    }
    Ok(())
}
