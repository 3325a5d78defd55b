//! Files that are damaged, stale or hostile.

use super::*;
use crate::synth;
use proptest::prelude::*;
use std::fs::File;
use std::time::{Duration, SystemTime};
use twox_hash::XxHash3_64;

impl World {
    /// With a file of int8.
    fn written(size: &Size) -> Self {
        let world = Self::new(size);
        assert!(world.open(Precision::Int8, Check::Quick).1.written);
        world
    }

    /// Changes the file in place, its time too unless `back`.
    fn change(&self, back: bool, change: impl FnOnce(&mut Vec<u8>)) {
        let time = fs::metadata(&self.path).unwrap().modified().unwrap();
        let mut bytes = fs::read(&self.path).unwrap();
        change(&mut bytes);
        fs::write(&self.path, bytes).unwrap();
        if back {
            File::open(&self.path).unwrap().set_modified(time).unwrap();
        }
    }

    /// Replaces text of the header by text of the same length, and makes the checksum good.
    fn lie(&self, old: &str, new: &str) {
        assert_eq!(old.len(), new.len());
        self.change(true, |bytes| {
            let at = bytes.windows(old.len()).position(|window| window == old.as_bytes()).unwrap();
            bytes[at..at + new.len()].copy_from_slice(new.as_bytes());
            seal(bytes);
        });
    }

    /// The file is refused with a message of all these parts, and written anew.
    #[track_caller]
    fn refused(&self, check: Check, parts: &[&str]) {
        let (model, kept) = self.open(Precision::Int8, check);
        let message = kept.unusable.expect("the file was taken").to_string();
        assert!(message.starts_with(&self.path.display().to_string()), "{message}");
        assert!(parts.iter().all(|part| message.contains(part)) && !message.contains('\n'), "{message}");
        assert!(kept.written && kept.not_written.is_none());
        assert_eq!(logits(&model), logits(&in_memory(self.model(), Precision::Int8)));
        let (_, kept) = self.open(Precision::Int8, Check::Full);
        assert!(!kept.written && kept.unusable.is_none(), "{kept:?}");
    }
}

fn header_len(bytes: &[u8]) -> usize {
    u64::from_le_bytes(bytes[16..24].try_into().unwrap()) as usize
}

/// Puts the right checksum before the header.
fn seal(bytes: &mut [u8]) {
    let hash = XxHash3_64::oneshot(&bytes[32..32 + header_len(bytes)]);
    bytes[24..32].copy_from_slice(&hash.to_le_bytes());
}

#[test]
fn damage_is_noticed_and_repaired() {
    type Change = fn(&mut Vec<u8>);
    let cases: [(Change, &str); 12] = [
        (Vec::clear, "cut short: 0 bytes"),
        (|b| b.truncate(31), "cut short: 31 bytes"),
        (|b| b.truncate(100), "does not fit: the file is damaged or cut short"),
        (|b| b.truncate(b.len() - 1), "it is cut short or was added to"),
        (|b| b.push(0), "it is cut short or was added to"),
        (|b| b[0] ^= 1, "not a file of quantised weights"),
        (|b| b[8] = 7, "written by another version: its layout is 7."),
        (|b| b[12] ^= 64, "written by another version: its layout is 1."),
        // Blocks of 256 elements.
        (|b| b[12] = 1, "written by another version: its layout is 1.1, expected 1.2"),
        (|b| b[20] ^= 1, "does not fit: the file is damaged or cut short"),
        (|b| b[24] ^= 1, "the header is damaged: its checksum is "),
        (|b| b[40] ^= 1, "the header is damaged: its checksum is "),
    ];
    let world = World::written(&SMALL);
    for (change, message) in cases {
        // A time that was put back does not help.
        world.change(true, change);
        world.refused(Check::Quick, &[message]);
    }
}

#[test]
fn each_byte_of_a_small_file_counts() {
    let world = World::written(&SMALL);
    let length = fs::metadata(&world.path).unwrap().len() as usize;
    for at in [length - 1, length / 2, 3 * length / 4] {
        world.change(true, |bytes| bytes[at] ^= 1);
        world.refused(Check::Quick, &["tensor `", "the quantised weights are damaged: their checksum is "]);
    }
}

#[test]
fn of_a_large_file_the_sampled_pages_count_and_all_if_it_was_touched_or_asked_for() {
    let world = World::written(&LARGE);
    // The last byte belongs to the last matrix's sample; the one before its last page to nobody's.
    world.change(true, |bytes| *bytes.last_mut().unwrap() ^= 1);
    world.refused(Check::Quick, &["tensor `embed_out.weight`"]);
    let hidden = |bytes: &mut Vec<u8>| {
        let at = bytes.len() - 4097;
        bytes[at] ^= 1;
    };
    world.change(false, hidden);
    world.refused(Check::Quick, &["tensor `embed_out.weight`: the quantised weights are damaged"]);
    world.change(true, hidden);
    assert!(world.open(Precision::Int8, Check::Quick).1.unusable.is_none());
    world.refused(Check::Full, &["tensor `embed_out.weight`: the quantised weights are damaged"]);
}

#[test]
fn a_file_that_was_touched_but_is_good_gets_its_time_back() {
    let world = World::written(&LARGE);
    let time = || fs::metadata(&world.path).unwrap().modified().unwrap();
    let before = time();
    world.change(false, |_| {});
    assert_ne!(time(), before);
    let (_, kept) = world.open(Precision::Int8, Check::Quick);
    assert!(!kept.written && kept.unusable.is_none(), "{kept:?}");
    assert_eq!(time(), before);
}

#[test]
fn other_weights_are_noticed() {
    for size in [&SMALL, &LARGE] {
        let world = World::written(size);
        let weights = world.dir.path().join("model.safetensors");
        let time = fs::metadata(&weights).unwrap().modified().unwrap();
        let set_time = |time: SystemTime| File::open(&weights).unwrap().set_modified(time).unwrap();
        // The same numbers, written later.
        set_time(time + Duration::from_secs(1));
        world.refused(Check::Quick, &["made from other weights: ", "model.safetensors was written since"]);
        // Other numbers at the same time: a model of another seed.
        synth::write(size, &world.dir, 2).unwrap();
        set_time(time + Duration::from_secs(1));
        world.refused(Check::Quick, &["made from other weights: the matrices have other numbers"]);
        // A file of another length.
        let mut bytes = fs::read(&weights).unwrap();
        let n = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        bytes.splice(8 + n as usize..8 + n as usize, *b"        ");
        bytes[..8].copy_from_slice(&(n + 8).to_le_bytes());
        fs::write(&weights, bytes).unwrap();
        world.refused(Check::Quick, &["made from other weights: ", " bytes, not "]);
    }
}

#[test]
fn weights_that_were_edited_in_memory_are_other_weights() {
    let world = World::written(&SMALL);
    let mut weights = world.model().weights().clone();
    weights.layers[1].attention_dense = weights.layers[0].attention_dense.clone();
    let model = Model::new(world.model().config().clone(), weights);
    Team::new(1).unwrap().enter(|crew| {
        let place = (world.path.as_path(), Check::Quick);
        let (_, kept) = model.with_precision_kept(crew, Precision::Int8, place, &mut |_| {}).unwrap();
        assert!(kept.unusable.unwrap().to_string().contains("the matrices have other numbers"));
    });
}

#[test]
fn a_file_of_another_precision_is_not_taken() {
    let world = World::new(&SMALL);
    world.open(Precision::Int4, Check::Quick);
    world.refused(Check::Quick, &["expected weights in int8, found int4"]);
}

#[test]
fn a_header_that_lies_is_refused() {
    let world = World::written(&SMALL);
    for (old, new, message) in [
        ("layers.0", "layers.1", "the header has `gpt_neox.layers.1.attention.query_key_value.weight`"),
        ("[144,48]", "[144,84]", "query_key_value.weight` of [144, 84], in"),
        ("\"offset\":0", "\"offset\":1", " bytes at 1, expected `"),
        ("\"written\":", "\"wxitten\":", "the header is not valid: missing field `written`"),
        ("\"precision\":\"int8\"", "\"precision\":\"in\\n\"", "expected weights in int8, found in\\n"),
        ("[{\"name\"", "[[\"name\"", "the header is not valid: "),
    ] {
        world.lie(old, new);
        world.refused(Check::Quick, &[message]);
    }
    // One matrix less.
    world.change(true, |bytes| {
        let n = header_len(bytes);
        let mut header: serde_json::Value = serde_json::from_slice(&bytes[32..32 + n]).unwrap();
        header["matrices"].as_array_mut().unwrap().pop();
        let header = header.to_string() + &" ".repeat(n - header.to_string().len());
        bytes[32..32 + n].copy_from_slice(header.as_bytes());
        seal(bytes);
    });
    world.refused(Check::Quick, &["the header has 8 matrices, expected 9"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// With a checksum that fits, so that what the header says is looked at.
    #[test]
    fn random_changes_of_the_header_are_errors_and_nothing_more(
        changes in prop::collection::vec((0..4000_usize, any::<u8>()), 1..4),
        digits in any::<bool>(),
        cut in prop::option::of(0..40_000_usize),
    ) {
        static WORLD: std::sync::LazyLock<World> = std::sync::LazyLock::new(|| World::written(&SMALL));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("changed");
        let mut bytes = fs::read(&WORLD.path).unwrap();
        let n = header_len(&bytes);
        for (at, byte) in changes {
            let at = 32 + at % n;
            if !digits {
                bytes[at] = byte;
            } else if bytes[at].is_ascii_digit() {
                bytes[at] = b'0' + byte % 10;
            }
        }
        seal(&mut bytes);
        bytes.truncate(cut.unwrap_or(bytes.len()));
        fs::write(&path, bytes).unwrap();
        let model = WORLD.model();
        if let Err(e) = file::open(&path, model.weights(), Bits::Int8, Check::Quick) {
            prop_assert!(!e.to_string().contains('\n'), "{}", e);
        }
    }
}
