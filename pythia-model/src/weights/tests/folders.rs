//! Folders: shards, indices that lie, no weights, and the models that transformers wrote.

use super::*;
use half::f16;
use pythia_tensor::DType;
use std::path::PathBuf;

#[test]
fn folders_without_usable_weights_say_what_is_wrong() {
    let has = |files: &[(&str, &[u8])], expected: &str| {
        let message = folder_error(files);
        assert!(message.contains(expected), "{message}");
    };
    has(
        &[],
        "no weights in this folder: expected model.safetensors or pytorch_model.bin, the .index.json of one and its \
         shards, a .gguf file, or the layer files of GPT-NeoX",
    );
    has(
        &[("pytorch_model.bin", b"PK")],
        "/pytorch_model.bin: this is not a PyTorch checkpoint: it starts neither as a zip archive nor as the older",
    );
    has(
        &[("pytorch_model.bin.index.json", b"{}")],
        "/pytorch_model.bin.index.json: expected an index of tensors: missing field `weight_map`",
    );
    has(&[("pytorch_model.bin", b"")], "/pytorch_model.bin: the file is empty: download or write it again");
    has(
        &[("pytorch_model.bin", b"version https://git-lfs.github.com/spec/v1\n")],
        "/pytorch_model.bin: this is a Git LFS pointer, not the weights: fetch them",
    );
    has(&[("model.safetensors", b"")], "/model.safetensors: the file is empty: download or write it again");
    has(
        &[("model.safetensors", b"\x02\0\0\0\0\0\0\0{}")],
        "tensor `gpt_neox.embed_in.weight`: missing: the config expects it, of shape [5, 8], by `vo",
    );

    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("model.safetensors")).unwrap();
    let message = Weights::open(dir.path(), &config()).unwrap_err().to_string();
    assert!(message.ends_with("/model.safetensors: expected a regular file, found a folder"), "{message}");
    let message = Weights::open(dir.path().join("absent"), &config()).unwrap_err().to_string();
    assert!(message.contains("/absent: No such file"), "{message}");
}

/// An index that says which tensors of the model lie in `a` and which in `b`, and the two files.
fn shards() -> (Value, Vec<u8>, Vec<u8>) {
    let tensors = config().tensors();
    let (a, b) = tensors.split_at(9);
    let place = |(name, _): &(String, Vec<usize>), file: &str| (name.clone(), Value::from(file));
    let map = a.iter().map(|t| place(t, "a")).chain(b.iter().map(|t| place(t, "b")));
    (Value::Object(map.collect()), file_of(a), file_of(b))
}

#[test]
fn shards_are_read_as_one_model() {
    let (map, a, b) = shards();
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string();
    let dir = folder(&[("model.safetensors.index.json", index.as_bytes()), ("a", &a), ("b", &b)]);
    let weights = Weights::open(dir.path(), &config()).unwrap();
    let whole = open_bytes(file_of(&config().tensors()), &config()).unwrap();
    assert_eq!(weights.embed_out.to_f32(), whole.embed_out.to_f32());
    assert_eq!(
        weights.layers[0].attention_dense.weight.to_f32(),
        whole.layers[0].attention_dense.weight.to_f32()
    );
}

#[test]
fn indices_that_lie_are_errors() {
    let (map, a, b) = shards();
    let dense = "gpt_neox.layers.0.attention.dense.weight";
    let change = |name: &str, file: &str| {
        let mut map = map.clone();
        map[name] = file.into();
        json!({"weight_map": map}).to_string()
    };
    for (index, expected) in [
        (
            change(dense, "../b"),
            "/model.safetensors.index.json: the shard `../b` is not a plain file name".to_owned(),
        ),
        (change(dense, "/etc/passwd"), "the shard `/etc/passwd` is not a plain file name".into()),
        (change(dense, "x/b"), "the shard `x/b` is not a plain file name".into()),
        (change(dense, "b/"), "the shard `b/` is not a plain file name".into()),
        (change(dense, ".."), "the shard `..` is not a plain file name".into()),
        (change(dense, "."), "the shard `.` is not a plain file name".into()),
        (change(dense, "x\\b"), "the shard `x\\\\b` is not a plain file name".into()),
        (change(dense, ""), "the shard `` is not a plain file name".into()),
        (
            change(dense, "c"),
            "/model.safetensors.index.json: the shard c is missing from the folder: download it".into(),
        ),
        (
            change(dense, "b"),
            format!(
                "/model.safetensors.index.json: tensor `{dense}`: the index says it is in b, which does not have it"
            ),
        ),
        (change("new", "b"), "tensor `new`: the index says it is in b, which does not have it".into()),
        ("{}".to_owned(), "expected an index of tensors: missing field `weight_map`".into()),
        (
            "{\"weight_map\":{\"a\":1}}".to_owned(),
            "expected an index of tensors: invalid type: integer `1`".into(),
        ),
        (
            "{\"weight_map\":{\"a\":\"a\",\"a\":\"b\"}}".to_owned(),
            "expected an index of tensors: `a` occurs twice".into(),
        ),
        ("{\"weight_map\":{}}".to_owned(), "`gpt_neox.embed_in.weight`: missing".into()),
    ] {
        let files = [("model.safetensors.index.json", index.as_bytes()), ("a", &a), ("b", &b)];
        let message = folder_error(&files);
        assert!(message.contains(&expected), "{message}");
    }
    let index = change(dense, "a");
    let message =
        folder_error(&[("model.safetensors.index.json", index.as_bytes()), ("a", &a), ("b", &b[..99])]);
    assert!(message.contains("/b: a header of "), "{message}");
}

/// The reference data that lie beside the repository, if they do.
fn reference(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(path);
    if path.is_dir() {
        return Some(path);
    }
    eprintln!("notice: {} is absent, so this test checks nothing", path.display());
    None
}

#[test]
fn every_variant_that_transformers_wrote_opens() {
    let Some(variants) = reference("reference/variants") else { return };
    let mut opened = 0;
    for entry in fs::read_dir(variants).unwrap() {
        let dir = entry.unwrap().path();
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let config = Config::from_file(dir.join("config.json"));
        if name == "sequence-classification" {
            assert!(config.unwrap_err().to_string().contains("shares only its backbone"));
            continue;
        }
        let config = config.unwrap();
        let weights = Weights::open(&dir, &config).unwrap();
        assert_eq!(Some(weights.embed_in.dtype()), config.torch_dtype, "{name}");
        assert_eq!((weights.layers.len(), weights.ignored.len()), (2, 0), "{name}");
        let biased = weights.layers[0].query_key_value.bias.is_some();
        assert_eq!(biased, name != "no-attention-bias");
        opened += 1;
    }
    assert_eq!(opened, 14);
}

#[test]
fn every_step_of_the_mini_suite_opens() {
    let Some(suite) = reference("mini-suite") else { return };
    for step in ["step0", "step16", "step3000"] {
        let dir = suite.join(step);
        let text = fs::read_to_string(dir.join("config.json")).unwrap();
        let config = Config::from_file(dir.join("config.json")).unwrap();
        assert_eq!(config.to_json(), text);
        let weights = Weights::open(&dir, &config).unwrap();
        assert_eq!((weights.embed_in.dtype(), weights.ignored.len()), (DType::F16, 0));
        assert!(weights.embed_in.as_slice::<f16>().unwrap().iter().all(|x| x.is_finite()));
    }
}
