//! The layer files of GPT-NeoX: models split over ranks and merged again, their configs, and checkpoints that lack something.

use super::pytorch_files::mapped;
use super::torch_save::{self, archive, state_dict};
use super::*;
use crate::convert::{Options, Source, to_safetensors};
use crate::{Model, Sequence, Tokenizer, Workspace};
use half::f16;
use pythia_tensor::{DType, Team, Tensor};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What each layer file has, by its number and its rank.
type Layers = BTreeMap<(usize, usize), Vec<(String, Tensor)>>;

/// The keys of a model that up to four ranks can share.
fn keys() -> Value {
    json!({
        "model_type": "gpt_neox", "vocab_size": 12, "hidden_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 24, "rotary_pct": 0.5, "bos_token_id": 0, "eos_token_id": 0,
        "torch_dtype": "float16",
    })
}

/// The model in `dir` as so many ranks of a training would have it.
fn split(dir: &Path, ranks: usize) -> Layers {
    let config = Config::from_file(dir.join("config.json")).unwrap();
    let file = TensorFile::open(dir.join("model.safetensors")).unwrap();
    let mut layers = Layers::new();
    for (name, _) in config.tensors() {
        let (number, stored) = match name.strip_prefix("gpt_neox.layers.") {
            Some(rest) => {
                let (layer, stored) = rest.split_once('.').unwrap();
                (layer.parse::<usize>().unwrap() + 2, stored.to_owned())
            }
            None if name == EMBED_IN => (0, "word_embeddings.weight".to_owned()),
            None if name == EMBED_OUT => (config.num_hidden_layers + 4, "final_linear.weight".to_owned()),
            None => (config.num_hidden_layers + 3, name.replace("gpt_neox.final_layer_norm", "norm")),
        };
        let tensor = file.tensor(&name).unwrap().unwrap();
        for rank in 0..ranks {
            let part = part(&tensor, &stored, (rank, ranks), config.use_parallel_residual);
            layers.entry((number, rank)).or_default().push((stored.clone(), part));
        }
    }
    layers
}

/// What one of the ranks has of a tensor.
fn part(tensor: &Tensor, stored: &str, (rank, ranks): (usize, usize), parallel: bool) -> Tensor {
    let by_columns = stored.contains("attention.dense.") || stored.contains("4h_to_h.");
    if stored.contains("norm") || (by_columns && stored.ends_with("bias") && !parallel) {
        return tensor.clone();
    }
    let shape = tensor.shape();
    let numbers = tensor.as_slice::<f16>().unwrap();
    if by_columns && stored.ends_with("bias") {
        // Of each number one rank has all, and the others a zero.
        let of = |(i, &x): (usize, &f16)| if i % ranks == rank { x } else { f16::ZERO.copysign(x) };
        return Tensor::from_slice(&numbers.iter().enumerate().map(of).collect::<Vec<_>>(), shape);
    }
    if by_columns {
        let width = shape[1] / ranks;
        let rows = numbers.chunks(shape[1]).flat_map(|row| &row[rank * width..][..width]);
        return Tensor::from_slice(&rows.copied().collect::<Vec<_>>(), &[shape[0], width]);
    }
    let rows = shape[0] / ranks;
    tensor.rows(rank * rows..(rank + 1) * rows)
}

/// One file, as `torch.save` writes it.
fn layer_file(tensors: &[(String, Tensor)]) -> Vec<u8> {
    let kind = |dtype: DType| if dtype == DType::F32 { "Float" } else { "Half" }.to_owned();
    let entry = |(key, (name, tensor)): (usize, &(String, Tensor))| {
        let kind = kind(tensor.dtype());
        (name.clone(), torch_save::Tensor { kind, ..torch_save::Tensor::new(key, tensor.shape()) })
    };
    let entries: Vec<_> = tensors.iter().enumerate().map(entry).collect();
    let state: Vec<_> = entries.iter().map(|(name, tensor)| (&name[..], tensor.clone())).collect();
    let storages =
        entries.iter().zip(tensors).map(|((_, entry), (_, tensor))| (&entry.key[..], tensor.bytes()));
    archive(&state_dict(&state), &storages.collect::<Vec<_>>()).bytes
}

fn name(number: usize, rank: usize) -> String {
    format!("layer_{number:02}-model_{rank:02}-model_states.pt")
}

fn write(dir: &Path, layers: &Layers) {
    fs::create_dir_all(dir).unwrap();
    for (&(number, rank), tensors) in layers {
        fs::write(dir.join(name(number, rank)), layer_file(tensors)).unwrap();
    }
}

/// A training's folder: `latest`, and a checkpoint of the model in `dir` with its config.
fn training(dir: &Path, ranks: usize) -> (TempDir, PathBuf) {
    let to = folder(&[("latest", b"global_step3\n")]);
    let step = to.path().join("global_step3");
    write(&step, &split(dir, ranks));
    fs::copy(dir.join("config.json"), step.join("config.json")).unwrap();
    (to, step)
}

/// Every number of a model, bit by bit.
fn bits(weights: &Weights) -> Vec<u32> {
    let norms = |norm: &LayerNormWeights| [norm.weight.clone(), norm.bias.clone()].concat();
    let mut numbers = [weights.embed_in.to_f32(), norms(&weights.final_layer_norm)].concat();
    weights.matrices().for_each(|(_, matrix)| numbers.extend(matrix.to_f32()));
    for layer in &weights.layers {
        numbers.extend(norms(&layer.input_layernorm));
        numbers.extend(norms(&layer.post_attention_layernorm));
        layer.linears().iter().for_each(|linear| numbers.extend(linear.bias.iter().flatten()));
    }
    numbers.into_iter().map(f32::to_bits).collect()
}

fn logits(model: &Model) -> Vec<f32> {
    let ids: Vec<u32> = (0..9).map(|i| i * 7 % model.config().vocab_size as u32).collect();
    let (mut cache, mut workspace) = (model.cache(9).unwrap(), Workspace::new());
    Team::new(2).unwrap().enter(|crew| {
        let batch = &mut [Sequence::all(&ids, &mut cache)];
        let logits = model.forward(crew, batch, &mut workspace).unwrap();
        (0..9).flat_map(|row| logits.row(row).to_vec()).collect()
    })
}

fn mini() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../pythia-cli/assets/mini")
}

#[test]
fn a_model_split_over_ranks_is_the_same_model() {
    let original = Model::open(mini()).unwrap();
    for ranks in [1, 2, 4] {
        let (training, step) = training(&mini(), ranks);
        for place in [training.path(), &step] {
            let model = Model::open(place).unwrap();
            assert_eq!(model.config(), original.config(), "{ranks} ranks");
            assert!(bits(model.weights()) == bits(original.weights()), "{ranks} ranks: other numbers");
            assert!(logits(&model) == logits(&original), "{ranks} ranks: other logits");
            assert!(model.weights().ignored.is_empty());
            // The matrices, of which the last is the unembedding.
            let expected = if ranks == 1 { 4 * 4 + 1 } else { 0 };
            assert_eq!((mapped(model.weights()), model.weights().files.len()), (expected, 7 * ranks));
        }
    }
}

#[test]
fn every_architecture_survives_ranks_and_is_converted_to_what_it_was() {
    for (key, value) in [
        ("use_parallel_residual", json!(true)),
        ("use_parallel_residual", json!(false)),
        ("attention_bias", json!(false)),
        ("tie_word_embeddings", json!(true)),
    ] {
        let mut json = keys();
        json[key] = value.clone();
        let from = usual(&json);
        let original = Model::open(from.path()).unwrap();
        let out = tempfile::tempdir().unwrap();
        let convert = |from: &Path, to: &str| {
            let to = out.path().join(to);
            let options = Options::default();
            to_safetensors(&Source::open(from).unwrap(), &to, &options, &mut |_| {}).unwrap();
            ["model.safetensors", "config.json"].map(|name| fs::read(to.join(name)).unwrap())
        };
        let expected = convert(from.path(), "original");
        for ranks in [1, 2, 4] {
            let (training, _) = training(from.path(), ranks);
            let model = Model::open(training.path()).unwrap();
            assert!(bits(model.weights()) == bits(original.weights()), "{key} {value}, {ranks} ranks");
            assert!(convert(training.path(), &ranks.to_string()) == expected, "{key} {value}, {ranks} ranks");
        }
    }
}

/// The first number of a vector of layer 1, made of two ranks' numbers, and its type.
fn merged(stored: &str, numbers: [f32; 2], dtype: DType, parallel: bool) -> (f32, DType) {
    let mut json = keys();
    json["use_parallel_residual"] = parallel.into();
    let from = usual(&json);
    let (_training, step) = training(from.path(), 2);
    let mut layers = split(from.path(), 2);
    for (rank, x) in numbers.into_iter().enumerate() {
        let tensors = layers.get_mut(&(3, rank)).unwrap();
        let (_, tensor) = tensors.iter_mut().find(|(name, _)| name == stored).unwrap();
        let all = vec![x; tensor.len()];
        let halves: Vec<_> = all.iter().map(|&x| f16::from_f32(x)).collect();
        let shape = tensor.shape().to_vec();
        *tensor = if dtype == DType::F32 {
            Tensor::from_slice(&all, &shape)
        } else {
            Tensor::from_slice(&halves, &shape)
        };
    }
    write(&step, &layers);
    let checkpoint = Checkpoint::open(&step, &config_of(&json)).unwrap();
    let tensor = checkpoint.tensor(&format!("gpt_neox.layers.1.{stored}")).unwrap().unwrap();
    (tensor.to_f32()[0], tensor.dtype())
}

#[test]
fn norms_are_averaged_and_biases_added_up_where_each_rank_adds_its_own() {
    let norms = ["input_layernorm", "post_attention_layernorm"];
    for name in norms.iter().flat_map(|norm| [format!("{norm}.weight"), format!("{norm}.bias")]) {
        for parallel in [true, false] {
            assert_eq!(merged(&name, [1.0, 2.0], DType::F16, parallel), (1.5, DType::F16), "{name}");
        }
    }
    for name in ["attention.dense.bias", "mlp.dense_4h_to_h.bias"] {
        assert_eq!(merged(name, [1.0, 2.0], DType::F16, true), (3.0, DType::F16), "{name}");
        assert_eq!(merged(name, [1.0, 2.0], DType::F16, false), (1.5, DType::F16), "{name}");
    }
    // The sum has no room in the stored type, the mean has.
    assert_eq!(merged("input_layernorm.bias", [65504.0; 2], DType::F16, true), (65504.0, DType::F16));
    let mean = merged("input_layernorm.bias", [1.0, 1.0 + f32::EPSILON], DType::F32, true);
    assert_eq!(mean, (1.0, DType::F32), "a tie goes to the even number");
    assert_eq!(merged("input_layernorm.bias", [f32::MAX; 2], DType::F32, true), (f32::MAX, DType::F32));
}

#[test]
fn the_tokenizer_and_the_config_may_lie_above_the_steps() {
    let (training, step) = training(&mini(), 1);
    assert!(Tokenizer::of_model(training.path()).unwrap().is_none());
    fs::rename(step.join("config.json"), training.path().join("config.json")).unwrap();
    fs::copy(mini().join("tokenizer.json"), training.path().join("tokenizer.json")).unwrap();
    let expected = Tokenizer::of_model(mini()).unwrap().unwrap().encode("The cat sat").unwrap();
    let to = tempfile::tempdir().unwrap();
    fs::create_dir(step.join("configs")).unwrap();
    for (i, place) in [training.path(), &step, &step.join("configs/..")].into_iter().enumerate() {
        assert_eq!(Model::open(place).unwrap().config(), Model::open(mini()).unwrap().config());
        let tokenizer = Tokenizer::of_model(place).unwrap().unwrap();
        assert_eq!(tokenizer.encode("The cat sat").unwrap(), expected);
        let to = to.path().join(i.to_string());
        to_safetensors(&Source::open(place).unwrap(), &to, &Options::default(), &mut |_| {}).unwrap();
        assert!(to.join("tokenizer.json").exists());
    }
}

/// The settings of a training of the model of [`keys`].
const SETTINGS: &str = r#"{
  "num-layers": 2, "hidden-size": 16, "num-attention-heads": 4, # of 4
  "pos-emb": "rotary", "rotary_pct": 0.5, "max-position-embeddings": 2048,
  "no-weight-tying": true, "gpt-j-residual": true,
  "optimizer": {"type": "Adam", "params": {"lr": 0.1, "hidden-size": 17}},
  "attention-config": [[["flash"], 2]]
}"#;

/// The model of [`keys`] over two ranks, without a config, but with these settings.
fn with_settings(files: &[(&str, &str)]) -> Result<Config> {
    let (training, step) = training(usual(&keys()).path(), 2);
    fs::remove_file(step.join("config.json")).unwrap();
    fs::create_dir(step.join("configs")).unwrap();
    for (name, content) in files {
        fs::write(step.join("configs").join(name), content).unwrap();
    }
    let config = Config::of_model(training.path())?;
    Model::open(training.path()).map(|_| config)
}

#[test]
fn without_a_config_the_settings_and_the_shapes_say_what_the_model_is() {
    assert_eq!(with_settings(&[("a.yml", SETTINGS)]).unwrap(), config_of(&keys()));
    // Two files, one as GPT-NeoX writes dictionaries, one line by line.
    let json = r#"{"num_layers": 2, "text": "a\"b: [", "no_weight_tying": true, "fp16": {"enabled": true}}"#;
    let lines = "---\noptimizer:\n  type: Adam\nnum-attention-heads: 4\npos-emb: rotary  # as \"GPT-J\"\nload:\n\
                 rotary-pct: .5\ngpt_j_residual: True\nseq-length: 2048\nvocab-file: 's3://a/b'\nnum-layers: 2\n";
    let config = with_settings(&[("a.yml", lines), ("b.yml", json), ("c.txt", "{")]).unwrap();
    assert_eq!(config, config_of(&keys()));
    // What GPT-NeoX does where nothing is said.
    let few =
        "pos-emb: rotary\nnum-attention-heads: 2\nno-weight-tying: true\ntokenizer-type: GPT2BPETokenizer";
    let config = with_settings(&[("a.yaml", few)]).unwrap();
    assert_eq!((config.rotary_pct, config.rotary_base, config.use_parallel_residual), (1.0, 10_000.0, false));
    assert_eq!((config.layer_norm_eps, config.max_position_embeddings), (1e-5, 2048));
    assert_eq!((config.bos_token_id, config.eos_token_ids.len()), (None, 0));
}

#[test]
fn settings_of_another_model_are_errors() {
    for (from, to, expected) in [
        ("\"num-layers\": 2", "\"num-layers\": 3", "`num-layers` is 3, but the layer files have 2"),
        ("\"hidden-size\": 16", "\"hidden_size\": 8", "`hidden-size` is 8, but the layer files have 16"),
        ("\"rotary\"", "\"learned\"", "`pos-emb` is learned, supported: rotary"),
        ("\"pos-emb\": \"rotary\",", "", "`pos-emb` is absent, supported: rotary"),
        ("\"flash\"", "\"local\"", "`attention-config` has local, supported: global and flash"),
        ("{\n", "{\n\"gpt-j-tied\": true,", "`gpt-j-tied` is true, which is not supported"),
        ("{\n", "{\n\"sliding-window-width\": 8,", "`sliding-window-width` is 8, which is not supported"),
        ("{\n", "{\n\"rotary-pct\": 1.0,", "`rotary-pct` is 1.0 and 0.5 too: remove the wrong one"),
        (
            "\"gpt-j-residual\": true",
            "\"gpt-j-residual\": 1",
            "`gpt-j-residual` expected true or false, found 1",
        ),
        ("\"num-attention-heads\": 4,", "", "key `num_attention_heads` is missing"),
        ("0.5", "0.5x", "`rotary_pct`: expected a number, found \"0.5x\""),
        ("{\n", "{\n\"activation\": \"swish\",", "`hidden_act`: unknown activation \"swish\""),
        ("\"flash\"], 2]]", "\"flash\"], 2]", "a bracket is not closed"),
        ("\"flash\"", "\"flash", "a quote is not closed"),
        ("[[[\"flash\"", "]", "a bracket is closed that was not opened"),
        (
            "\"no-weight-tying\": true,",
            "",
            "layer_06-model_00-model_states.pt: config contradicts weights: `tie_word",
        ),
    ] {
        assert!(SETTINGS.contains(from), "{from}");
        let message = with_settings(&[("a.yml", &SETTINGS.replacen(from, to, 1))]).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
        assert!(message.contains("/configs/a.yml: ") || expected.contains(".pt"), "{message}");
    }
    let message = with_settings(&[]).unwrap_err().to_string();
    let expected = "/global_step3: the layer files do not say how many heads the model has: put its config.json here, \
                    or the .yml files of its training into a folder `configs`";
    assert!(message.ends_with(expected), "{message}");
}

/// The message of a checkpoint over two ranks after a change of its files.
fn refused(change: impl FnOnce(&Path, &mut Layers)) -> String {
    let from = usual(&keys());
    let (training, step) = training(from.path(), 2);
    for entry in fs::read_dir(&step).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "pt") {
            fs::remove_file(path).unwrap();
        }
    }
    let mut layers = split(from.path(), 2);
    change(&step, &mut layers);
    write(&step, &layers);
    let message = Model::open(training.path()).unwrap_err().to_string();
    // A conversion does not merge anything to find the same.
    let converted = Source::open(training.path()).map(|source| {
        let to = training.path().join("out");
        to_safetensors(&source, &to, &Options::default(), &mut |_| {}).unwrap_err().to_string()
    });
    let converted = converted.unwrap_or_else(|e| e.to_string());
    let start = message.split(" by `").next().unwrap();
    assert!(converted.starts_with(start.split(", of shape").next().unwrap()), "{converted}");
    message.replace(&*training.path().to_string_lossy(), "")
}

fn tensor_of<'a>(layers: &'a mut Layers, file: (usize, usize), name: &str) -> &'a mut Tensor {
    &mut layers.get_mut(&file).unwrap().iter_mut().find(|(stored, _)| stored == name).unwrap().1
}

#[test]
fn what_a_checkpoint_lacks_or_contradicts_is_named() {
    let lacks = |file: (usize, usize)| {
        refused(|_, layers| {
            layers.remove(&file).unwrap();
        })
    };
    let up_to = |last: usize, ranks: usize| {
        format!("missing: there are files of layers up to {last} and of {ranks} ranks: copy it too")
    };
    for number in [0, 2, 3, 5] {
        for rank in 0..2 {
            let expected = format!("/global_step3/{}: {}", name(number, rank), up_to(6, 2));
            assert_eq!(lacks((number, rank)), expected);
        }
    }
    assert_eq!(lacks((6, 1)), format!("/global_step3/{}: {}", name(6, 1), up_to(6, 2)));
    // The unembedding of every rank.
    let message = refused(|_, layers| layers.retain(|&(number, _), _| number < 6));
    assert_eq!(message, format!("/global_step3/{}: {}", name(6, 0), up_to(5, 2)));
    let message = refused(|_, layers| layers.retain(|&(number, _), _| number < 5));
    let expected =
        "the last layer file has neither `final_linear.weight` nor `norm.weight`: those after it are missing";
    assert!(message.starts_with(&format!("/global_step3/{}: {expected}", name(3, 0))), "{message}");

    let message = refused(|_, layers| {
        layers.insert((1, 0), vec![]);
    });
    let expected = "unexpected: with 2 layers, there are no weights in the one of this number";
    assert_eq!(message, format!("/global_step3/{}: {expected}", name(1, 0)));
    let message = refused(|_, layers| {
        for number in [0, 2, 3, 5, 6] {
            let third = layers[&(number, 1)].clone();
            layers.insert((number, 2), third);
        }
    });
    assert_eq!(message, "/global_step3: the layer files are of 3 ranks, which cannot share 4 heads evenly");
    // One rank of two, of which nothing but the shapes tells.
    let message = refused(|_, layers| layers.retain(|&(_, rank), _| rank == 0));
    let expected = "tensor `gpt_neox.embed_in.weight`: config contradicts weights: expected [12, 16] by `vocab_size` and \
                    `hidden_size`, found [6, 16]";
    assert_eq!(message, format!("/global_step3/{}: {expected}", name(0, 0)));
}

#[test]
fn what_ranks_disagree_on_is_named() {
    let dense = "attention.dense.weight";
    let message = refused(|_, layers| {
        *tensor_of(layers, (3, 1), dense) = Tensor::from_slice(&[f16::ONE; 64], &[16, 4]);
    });
    let expected = format!("tensor `{dense}`: expected f16 [16, 8] as in {}, found f16 [16, 4]", name(3, 0));
    assert_eq!(message, format!("/global_step3/{}: {expected}", name(3, 1)));
    let message = refused(|_, layers| {
        *tensor_of(layers, (5, 1), "norm.bias") = Tensor::from_slice(&[1.0_f32; 16], &[16]);
    });
    assert!(
        message.ends_with(&format!("expected f16 [16] as in {}, found f32 [16]", name(5, 0))),
        "{message}"
    );
    // A layer of another width, on which the ranks agree.
    let message = refused(|_, layers| {
        for rank in 0..2 {
            *tensor_of(layers, (2, rank), dense) = Tensor::from_slice(&[f16::ONE; 64], &[16, 4]);
        }
    });
    let expected =
        "tensor `gpt_neox.layers.0.attention.dense.weight`: config contradicts weights: expected [16, 16]";
    assert!(message.starts_with(&format!("/global_step3/{}: {expected}", name(2, 0))), "{message}");
    let message = refused(|_, layers| {
        for rank in 0..2 {
            *tensor_of(layers, (2, rank), dense) = Tensor::from_slice(&[f16::ONE; 16], &[16]);
        }
    });
    assert!(
        message.ends_with("`attention.dense.weight`: [16] is no part of a tensor split over 2 ranks"),
        "{message}"
    );

    for rank in 0..2 {
        let message = refused(|_, layers| {
            layers.get_mut(&(2, rank)).unwrap().retain(|(stored, _)| stored != dense);
        });
        let expected = format!("tensor `{dense}`: missing: the same layer of another rank has it");
        assert_eq!(message, format!("/global_step3/{}: {expected}", name(2, rank)));
    }
    let message = refused(|_, layers| {
        for rank in 0..2 {
            layers.get_mut(&(2, rank)).unwrap().retain(|(stored, _)| stored != dense);
        }
    });
    assert!(
        message.starts_with("/global_step3: tensor `gpt_neox.layers.0.attention.dense.weight`: missing: the")
    );
    let message = refused(|_, layers| {
        let scale = ("input_layernorm.scale".to_owned(), Tensor::from_slice(&[f16::ONE; 16], &[16]));
        layers.get_mut(&(3, 1)).unwrap().push(scale);
    });
    let expected = "tensor `input_layernorm.scale`: unexpected: transformers' GPT-NeoX has no such tensor";
    assert!(message.starts_with(&format!("/global_step3/{}: {expected}", name(3, 1))), "{message}");
    let message = refused(|step, _| {
        let json = fs::read_to_string(step.join("config.json")).unwrap();
        let json = json.replace("\"num_hidden_layers\":2", "\"num_hidden_layers\":1");
        fs::write(step.join("config.json"), json).unwrap();
    });
    assert!(message.ends_with("`num_hidden_layers` is 1, but the file has this tensor"), "{message}");
}

#[test]
fn rotary_frequencies_are_no_weights_and_optimizers_are_not_read() {
    let from = usual(&keys());
    let (training, step) = training(from.path(), 2);
    let mut layers = split(from.path(), 2);
    for (_, tensors) in layers.iter_mut().filter(|((number, _), _)| [2, 3].contains(number)) {
        let frequencies = Tensor::from_slice(&[f16::ONE; 2], &[2]);
        tensors.push(("attention.rotary_emb.inv_freq".to_owned(), frequencies));
    }
    write(&step, &layers);
    for name in [
        "mp_rank_00_model_states.pt",
        "zero_pp_rank_0_mp_rank_00_optim_states.pt",
        "layer_1-model_00-model_states.pt",
    ] {
        fs::write(step.join(name), "not read").unwrap();
    }
    let model = Model::open(training.path()).unwrap();
    assert!(bits(model.weights()) == bits(Model::open(from.path()).unwrap().weights()));
    assert!(Source::open(training.path()).unwrap().ignored().is_empty());
    // Weights in another format come first.
    fs::write(step.join("model.safetensors"), "").unwrap();
    let message = Model::open(&step).unwrap_err().to_string();
    assert!(
        message.ends_with("/model.safetensors: the file is empty: download or write it again"),
        "{message}"
    );
}

#[test]
fn latest_must_name_a_checkpoint_beside_it() {
    let (training, _) = training(usual(&keys()).path(), 1);
    for tag in ["", ".", "..", "../x", "/etc", "global_step4", "a\0b", "global_step3/", "a\nb"] {
        fs::write(training.path().join("latest"), tag).unwrap();
        let message = Model::open(training.path()).unwrap_err().to_string();
        let expected = format!(
            "/latest: it names the checkpoint `{}`, which is no folder beside it: name a global_step folder instead",
            tag.escape_debug()
        );
        assert!(message.contains(&expected), "{message}");
    }
    fs::write(training.path().join("latest"), "x".repeat(2000)).unwrap();
    let message = Model::open(training.path()).unwrap_err().to_string();
    assert!(message.ends_with("/latest: expected at most 1024 bytes, found 2000"), "{message}");
    fs::create_dir(training.path().join("empty")).unwrap();
    fs::write(training.path().join("latest"), "empty").unwrap();
    let message = Model::open(training.path()).unwrap_err().to_string();
    assert!(
        message.contains("/empty: no layer files in this folder: expected layer_00-model_00-"),
        "{message}"
    );
    fs::write(training.path().join("empty/mp_rank_00_model_states.pt"), "").unwrap();
    for place in [training.path().to_owned(), training.path().join("empty")] {
        let message = Model::open(place).unwrap_err().to_string();
        assert!(
            message.contains("/empty: there are no layer files: without pipeline parallelism"),
            "{message}"
        );
    }
}
