//! PyTorch's `.bin` files that are good, and good ones that were damaged anywhere.

use super::torch_save::{Archive, Tensor, archive, dict, int, ints, pickle, state_dict, stream, text, tuple};
use super::*;
use crate::weights::file::Entry;
use half::bf16;
use proptest::prelude::*;
use pythia_tensor::DType;
use std::collections::HashMap;
use std::sync::Arc;

type Entries = HashMap<String, Entry>;

pub(super) fn parse(bytes: &[u8]) -> Result<Entries> {
    pytorch::parse(Path::new("memory"), bytes)
}

pub(super) fn file_in_memory(bytes: Vec<u8>) -> Result<TensorFile> {
    TensorFile::from_shared(Path::new("memory"), Arc::new(bytes), pytorch::parse)
}

fn model_in_memory(bytes: Vec<u8>) -> Result<Weights> {
    read(Checkpoint::of(file_in_memory(bytes)?), &config())
}

/// The model's tensors, of `f16`, each with its storage; and the buffers of old checkpoints.
fn model() -> (Vec<(String, Tensor)>, Vec<Vec<u8>>) {
    let (mut tensors, mut storages) = (vec![], vec![]);
    for (name, shape) in config().tensors() {
        tensors.push((name.clone(), Tensor::new(tensors.len(), &shape)));
        storages.push(bytemuck::cast_slice(&crate::synth::tensor(&name, &shape, 7)).to_vec());
    }
    for (name, kind, shape, size) in [
        ("bias", "Byte", &[1, 1, 4, 4][..], 16),
        ("bias", "Bool", &[1, 1, 4, 4], 16),
        ("masked_bias", "Half", &[], 2),
        ("rotary_emb.inv_freq", "Long", &[2], 16),
    ] {
        let tensor = Tensor { kind: kind.into(), ..Tensor::new(tensors.len(), shape) };
        tensors.push((format!("gpt_neox.layers.{}.attention.{name}", usize::from(kind == "Bool")), tensor));
        storages.push(vec![1; size]);
    }
    (tensors, storages)
}

fn zip_of(tensors: &[(String, Tensor)], storages: &[Vec<u8>]) -> Archive {
    let state: Vec<_> = tensors.iter().map(|(name, tensor)| (&name[..], tensor.clone())).collect();
    let keys: Vec<_> = tensors.iter().map(|(_, tensor)| &tensor.key[..]).collect();
    let storages: Vec<_> = keys.into_iter().zip(storages).map(|(key, bytes)| (key, &bytes[..])).collect();
    archive(&state_dict(&state), &storages)
}

fn zip() -> Archive {
    let (tensors, storages) = model();
    zip_of(&tensors, &storages)
}

/// The model in the old format. The length of the first tensor's device decides whether the storages are aligned.
fn old(device: &str) -> Vec<u8> {
    let (mut tensors, storages) = model();
    tensors.iter_mut().for_each(|(_, tensor)| tensor.view = Some(b"N".to_vec()));
    tensors[0].1.device = device.to_owned();
    let state: Vec<_> = tensors.iter().map(|(name, tensor)| (&name[..], tensor.clone())).collect();
    let keyed = tensors.iter().zip(&storages);
    let storages: Vec<_> = keyed.map(|((_, t), bytes)| (&t.key[..], t.elements as u64, &bytes[..])).collect();
    stream(&state_dict(&state), &storages)
}

fn same(a: &Weights, b: &Weights) -> bool {
    let matrices = a.matrices().zip(b.matrices()).all(|((_, a), (_, b))| a.to_f32() == b.to_f32());
    let vectors = |w: &Weights| {
        let layer = &w.layers[1];
        [&layer.post_attention_layernorm.bias, layer.dense_h_to_4h.bias.as_ref().unwrap()].map(Clone::clone)
    };
    matrices && vectors(a) == vectors(b) && a.embed_in.to_f32() == b.embed_in.to_f32()
}

/// How many of the matrices lie in the mapped files.
pub(super) fn mapped(weights: &Weights) -> usize {
    let in_a_file = |bytes: &[u8]| weights.files.iter().any(|file| file.offset(bytes).is_some());
    weights.matrices().filter(|(_, matrix)| in_a_file(matrix.bytes())).count()
}

#[test]
fn both_formats_hold_the_same_model_as_safetensors_and_nothing_is_copied() {
    let whole = open_bytes(file_of(&config().tensors()), &config()).unwrap();
    let mut found = vec![];
    for bytes in [zip().bytes, old("cpu"), old("cuda")] {
        let dir = folder(&[("pytorch_model.bin", &bytes)]);
        let weights = Weights::open(dir.path(), &config()).unwrap();
        assert!(same(&weights, &whole) && weights.ignored.is_empty());
        assert_eq!((weights.files.len(), weights.files[0].length), (1, bytes.len() as u64));
        found.push(mapped(&weights));
    }
    // Only the old format can have its storages at odd places; those are copied.
    found[1..].sort_unstable();
    assert_eq!(found, [9, 0, 9]);
}

#[test]
fn storages_that_are_not_aligned_are_copied() {
    let (tensors, storages) = model();
    let state: Vec<_> = tensors.iter().map(|(name, tensor)| (&name[..], tensor.clone())).collect();
    let names: Vec<_> = tensors.iter().map(|(_, tensor)| format!("m/data/{}", tensor.key)).collect();
    let state = state_dict(&state);
    let mut entries: Vec<(&str, &[u8])> = vec![("m/data.pkl", &state)];
    entries.extend(names.iter().zip(&storages).map(|(name, bytes)| (&name[..], &bytes[..])));
    let archive = Archive::aligned(&entries, 1);
    assert!(archive.data.iter().any(|range| range.start % 2 == 1));
    let whole = open_bytes(file_of(&config().tensors()), &config()).unwrap();
    assert!(same(&model_in_memory(archive.bytes).unwrap(), &whole));
}

#[test]
fn safetensors_come_first_and_shards_are_read_as_one_model() {
    let (tensors, storages) = model();
    let (a, b) = (zip_of(&tensors[..9], &storages[..9]).bytes, zip_of(&tensors[9..], &storages[9..]).bytes);
    let place =
        |(i, (name, _)): (usize, &(String, Tensor))| (name.clone(), ["a", "b"][usize::from(i >= 9)].into());
    let map: serde_json::Map<String, Value> = tensors.iter().enumerate().map(place).collect();
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string();
    let dir = folder(&[("pytorch_model.bin.index.json", index.as_bytes()), ("a", &a), ("b", &b)]);
    let whole = open_bytes(file_of(&config().tensors()), &config()).unwrap();
    let weights = Weights::open(dir.path(), &config()).unwrap();
    assert!(same(&weights, &whole));
    assert_eq!((weights.files.len(), mapped(&weights)), (2, 9));

    // A single file before an index, safetensors before both.
    fs::write(dir.path().join("pytorch_model.bin"), "x").unwrap();
    let message = Weights::open(dir.path(), &config()).unwrap_err().to_string();
    assert!(message.contains("/pytorch_model.bin: this is not a PyTorch checkpoint"), "{message}");
    fs::write(dir.path().join("model.safetensors"), file_of(&config().tensors())).unwrap();
    assert!(same(&Weights::open(dir.path(), &config()).unwrap(), &whole));
}

#[test]
fn tensors_are_parts_of_storages_of_any_type_and_may_share_one() {
    let f32s: [f32; 6] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    let bf16s = f32s.map(bf16::from_f32);
    let whole = Tensor { kind: "Float".into(), ..Tensor::new(0, &[3, 2]) };
    let part =
        Tensor { elements: 6, offset: 2, ..Tensor { kind: "Float".into(), ..Tensor::new(0, &[2, 2]) } };
    let state = state_dict(&[
        ("whole", whole.clone()),
        ("tied", whole.clone()),
        ("part", part.clone()),
        // How far it is to the next row does not matter where there is one row.
        ("row", Tensor { shape: vec![1, 2], strides: vec![99, 1], ..part.clone() }),
        ("none", Tensor { offset: 6, shape: vec![4, 0], strides: vec![7, 7], ..part.clone() }),
        ("turned", Tensor { strides: vec![1, 3], ..part }),
        ("scalar", Tensor { kind: "BFloat16".into(), elements: 6, offset: 5, ..Tensor::new(1, &[]) }),
    ]);
    let archive = archive(&state, &[("0", bytemuck::cast_slice(&f32s)), ("1", bytemuck::cast_slice(&bf16s))]);
    let file = file_in_memory(archive.bytes).unwrap();
    let tensor = |name: &str| file.tensor(name).unwrap().unwrap();
    for (name, shape, expected) in [
        ("whole", &[3, 2][..], &f32s[..]),
        ("tied", &[3, 2], &f32s),
        ("part", &[2, 2], &f32s[2..]),
        ("row", &[1, 2], &f32s[2..4]),
        ("none", &[4, 0], &[]),
        ("scalar", &[], &f32s[5..]),
    ] {
        assert_eq!((tensor(name).shape(), &tensor(name).to_f32()[..]), (shape, expected), "{name}");
    }
    assert_eq!(tensor("whole").bytes().as_ptr(), tensor("tied").bytes().as_ptr());
    assert_eq!((tensor("whole").dtype(), tensor("scalar").dtype()), (DType::F32, DType::BF16));
    assert_eq!(
        file.tensor("turned").unwrap_err().to_string(),
        "memory: tensor `turned`: its strides [1, 3] are not those of the shape [2, 2]: save `tensor.contiguous()`"
    );
    assert!(file.tensor("absent").unwrap().is_none());
}

#[test]
fn a_state_dict_may_be_ordered_and_have_attributes() {
    let tensor = Tensor::new(0, &[2]);
    let versions = dict(&[(text("version"), int(1))]);
    let metadata = [b"ccollections\nOrderedDict\n)R(", &[text(""), versions].concat()[..], b"u"].concat();
    let attributes = dict(&[(text("_metadata"), metadata)]);
    let ordered = b"ccollections\nOrderedDict\n)R(";
    let state = [&ordered[..], &text("a"), &tensor.write(), b"u", &attributes, b"b"].concat();
    let entries = parse(&archive(&pickle(&state), &[("0", &[0; 4])]).bytes).unwrap();
    assert_eq!(entries["a"].shape, [2]);
    // One pair at a time, numbers of every length, and what was memorized.
    let size = b"\x8a\x01\x02";
    let long = tuple(&[size.to_vec()]);
    let arguments = [tensor.storage(), b"J\0\0\0\0".to_vec(), long, ints(&[1])];
    let tensor = [b"ctorch._utils\n_rebuild_tensor_v2\n", &tuple(&arguments)[..], b"R"].concat();
    let state = [&b"}q\0"[..], &text("a"), b"r\x01\0\0\0", &tensor, b"s"].concat();
    let entries = parse(&archive(&pickle(&state), &[("0", &[0; 4])]).bytes).unwrap();
    assert_eq!(entries["a"].shape, [2]);
}

/// What `torch.save` writes if it is told to compute none.
#[test]
fn an_archive_without_checksums_is_read_and_one_with_a_wrong_one_is_not() {
    let whole = zip();
    for none in [0_u32, 0xdead_beef] {
        let mut without = whole.clone();
        for (header, data) in whole.headers.iter().zip(&whole.data) {
            without = without.with(header + 16, &none.to_le_bytes()).with(data.end + 4, &none.to_le_bytes());
        }
        assert_eq!(parse(&without.bytes).unwrap(), parse(&whole.bytes).unwrap());
        // What holds the pickle's bytes to be right is that those of the version are.
        let (header, data) = (whole.headers.last().unwrap(), whole.data.last().unwrap());
        let right = super::torch_save::crc32(b"3\n").to_le_bytes();
        let some = without.with(header + 16, &right).with(data.end + 4, &right);
        let message = parse(&some.bytes).unwrap_err().to_string();
        let expected = format!("`model/data.pkl` has the checksum {:08x}, expected {none:08x}", {
            super::torch_save::crc32(&whole.bytes[whole.data[0].clone()])
        });
        assert!(message.contains(&expected), "{message}");
    }
}

fn check_damage(original: &[u8], headers: impl IntoIterator<Item = usize>) {
    let (entries, model) = (parse(original).unwrap(), model_in_memory(original.to_vec()).unwrap());
    for at in headers {
        for bit in 0..8 {
            let mut bytes = original.to_vec();
            bytes[at] ^= 1 << bit;
            match parse(&bytes) {
                Err(e) => assert!(e.to_string().starts_with("memory: "), "{at}.{bit}: {e}"),
                Ok(found) if found == entries => {}
                // A name or a shape: the file is valid, but not this model's; or it is that of a buffer.
                Ok(_) => {
                    let same = model_in_memory(bytes).map_or(true, |changed| same(&changed, &model));
                    assert!(same, "byte {at} bit {bit}");
                }
            }
        }
    }
}

#[test]
fn every_flipped_bit_of_a_header_is_refused_or_without_effect() {
    let archive = zip();
    let is_storage = |at: usize| archive.data[2..].iter().any(|range| range.contains(&at));
    check_damage(&archive.bytes, (0..archive.bytes.len()).filter(|&at| !is_storage(at)));
    let old = old("cpu");
    let tensors = old.len() - model().1.iter().map(|bytes| bytes.len() + 8).sum::<usize>();
    check_damage(&old, 0..tensors + 8);
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    for bytes in [zip().bytes, old("cpu")] {
        for end in 0..bytes.len() {
            let message = parse(&bytes[..end]).unwrap_err().to_string();
            let told =
                message.contains("download it again") || message.contains("this is not a PyTorch checkpoint");
            assert!(message.starts_with("memory: ") && told, "{end}: {message}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn random_changes_are_errors_or_valid(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), is_zip: bool
    ) {
        let (mut bytes, pickle) = if is_zip {
            let archive = zip();
            let pickle = archive.data[0].clone();
            (archive.bytes, pickle)
        } else {
            (old("cpu"), 0..0)
        };
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        // The checksum is made right, or it would refuse every change of the pickle.
        let crc = super::torch_save::crc32(&bytes[pickle]).to_le_bytes();
        if is_zip {
            let header = zip().headers[0];
            bytes[header + 16..header + 20].copy_from_slice(&crc);
        }
        if let Ok(file) = file_in_memory(bytes) {
            for name in file.names() {
                if let Err(e) = file.tensor(name) {
                    let known = ["unsupported dtype", "its strides"].iter().any(|m| e.to_string().contains(m));
                    prop_assert!(known, "{}", e);
                }
            }
        }
    }
}
