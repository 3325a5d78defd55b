use super::*;
use crate::{Config, SIZES, Weights};
use sha2::{Digest, Sha256};

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

fn bits(values: &[f16]) -> Vec<u16> {
    values.iter().map(|x| x.to_bits()).collect()
}

// The sums and bits in these tests are those of synth.py with numpy 2.4 and safetensors 0.8.

#[test]
fn the_14m_model_is_pythons_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let size = Size::named("14m").unwrap();
    write(size, dir.path().join("a/b"), 1234).unwrap();
    let read = |name: &str| fs::read(dir.path().join("a/b").join(name)).unwrap();
    assert_eq!(
        sha256(&read("model.safetensors")),
        "bb4db9374e11e447a2d44399dd1d89d59064a4f16c141da7e0d29b5e0a323ac2"
    );
    assert_eq!(
        sha256(&read("config.json")),
        "e22baf0c6b28716fd02c04e993cc28f07e35964b2f806d97b8d888b64a9cb7fb"
    );
    assert_eq!(fs::read_dir(dir.path().join("a/b")).unwrap().count(), 2);

    let config = Config::from_file(dir.path().join("a/b/config.json")).unwrap();
    assert_eq!(config, size.config());
    let weights = Weights::open(dir.path().join("a/b"), &config).unwrap();
    let dense = &weights.layers[5].attention_dense.weight;
    let expected = tensor("gpt_neox.layers.5.attention.dense.weight", &[128, 128], 1234);
    assert_eq!(dense.as_slice::<f16>().unwrap(), expected);
}

#[test]
fn whole_tensors_are_pythons() {
    for (name, shape, seed, sum) in [
        (
            "gpt_neox.layers.35.attention.dense.weight",
            &[512, 512][..],
            1234,
            "99638297f11fac58cb38ae2452d2975b71f460b14bb29f33d32548ce9f88fd98",
        ),
        (
            "gpt_neox.layers.3.mlp.dense_h_to_4h.weight",
            &[512, 128],
            99,
            "c9051a8e6c17fdd11e3303b3e9eae77cc388d9709db95b23a0b6926ea32fa0f5",
        ),
        (
            "gpt_neox.layers.0.post_attention_layernorm.bias",
            &[768],
            u64::MAX,
            "730f352c67ddcf8d82e86e20aa8ffa2935263523c3694fe65783f12fdea0d987",
        ),
    ] {
        assert_eq!(sha256(bytemuck::cast_slice(&tensor(name, shape, seed))), sum, "{name}");
    }
}

#[test]
fn single_elements_are_pythons_at_any_offset() {
    // Python's elements 0, 1, 2, 5000000 and the last of the embedding of 12b.
    let values = Values::of(EMBED_IN, &[50688, 5120], 1234);
    for (start, expected) in
        [(0, &[0xb6c0, 0xb7f4, 0xbbd4][..]), (5_000_000, &[0x3904]), (50688 * 5120 - 1, &[0x3a97])]
    {
        let mut out = vec![f16::ZERO; expected.len()];
        values.fill_block(start, &mut out);
        assert_eq!(bits(&out), expected, "from {start}");
    }
    let norm = tensor("gpt_neox.final_layer_norm.weight", &[768], 1234);
    assert_eq!(bits(&[norm[0], norm[767]]), [0x3b56, 0x3c20]);
}

#[test]
fn rounding_is_exact_at_every_midpoint() {
    let round = |x: f64| {
        let mut out = [f16::ZERO];
        out.convert_from_f32_slice(&[round_to_odd(x)]);
        out[0].to_bits()
    };
    // Every pair of neighbours, subnormal ones included: the midpoint goes to the even one, what is next to the
    // midpoint to the nearer one.
    for low in 0..f16::MAX.to_bits() {
        let [a, b] = [low, low + 1].map(|bits| f16::from_bits(bits).to_f64());
        let middle = f64::midpoint(a, b);
        let even = low + (low & 1);
        for (x, expected) in
            [(a, low), (middle.next_down(), low), (middle, even), (middle.next_up(), low + 1), (b, low + 1)]
        {
            assert_eq!((round(x), round(-x)), (expected, expected | 0x8000), "{x:e} near {low:#x}");
        }
    }
    assert_eq!(round(1e-300), 0);
}

/// A disk with room for `0` more bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(self.0);
        self.0 -= n;
        if n == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(n) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_an_error_wherever_it_happens() {
    let tensors = [("a".to_owned(), vec![3]), ("b".to_owned(), vec![PIECE + 5]), ("c".to_owned(), vec![7])];
    let needed = 2 * (3 + PIECE + 5 + 7);
    for room in [0, 5, 6, 7, 2 * PIECE, needed - 14, needed - 1] {
        let error = write_tensors(&mut Full(room), &tensors, 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "room for {room}");
    }
    let mut disk = Full(needed);
    write_tensors(&mut disk, &tensors, 0).unwrap();
    assert_eq!(disk.0, 0);
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "").unwrap();
    let message = write(&SIZES[0], path.join("sub"), 0).unwrap_err().to_string();
    assert!(message.starts_with(&path.join("sub").display().to_string()), "{message}");
}
