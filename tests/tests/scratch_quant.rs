use pythia_model::{Cache, Model, Sequence, Tokenizer, Workspace};
use pythia_tensor::{Bits, Crew, DType, Quantized, Team, Tensor, ops};
use pythia_tests::shared;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::collections::HashMap;
const WINDOW: usize = 256;
fn valid_ids() -> Vec<u32> {
    let tokenizer = Tokenizer::from_file(shared("mini-suite").unwrap().join("tokenizer.json")).unwrap();
    let tales = std::fs::read_to_string(shared("data/tales/valid.jsonl").unwrap()).unwrap();
    let mut ids = Vec::new();
    for tale in tales.lines().map(|t| serde_json::from_str::<serde_json::Value>(t).unwrap()) {
        ids.push(0);
        ids.extend(tokenizer.encode(tale["text"].as_str().unwrap()).unwrap());
    }
    ids
}
fn mean_loss(crew: &Crew<'_>, model: &Model, ids: &[u32]) -> f64 {
    let starts: Vec<usize> = (0..ids.len() - WINDOW).step_by(WINDOW).collect();
    let mut caches: Vec<Cache> = (0..16).map(|_| model.cache(WINDOW).unwrap()).collect();
    let mut workspace = Workspace::new();
    let mut sum = 0.0;
    for starts in starts.chunks(16) {
        caches.iter_mut().for_each(|c| c.truncate(0));
        let mut batch: Vec<Sequence<'_>> = starts
            .iter()
            .zip(&mut caches)
            .map(|(&start, cache)| Sequence::all(&ids[start..start + WINDOW], cache))
            .collect();
        let logits = model.forward(crew, &mut batch, &mut workspace).unwrap();
        let mut log_sums = vec![0.0; logits.rows()];
        ops::log_sum_exp(crew, &mut log_sums, logits);
        let next = starts.iter().flat_map(|&start| &ids[start + 1..=start + WINDOW]);
        sum += next
            .zip(log_sums)
            .enumerate()
            .map(|(row, (&id, log_sum))| f64::from(log_sum) - f64::from(logits.row(row)[id as usize]))
            .sum::<f64>();
    }
    sum / (starts.len() * WINDOW) as f64
}
#[test]
fn scratch() {
    let dir = shared("mini-suite").unwrap().join("step3000");
    let ids = valid_ids();
    let bytes = std::fs::read(dir.join("model.safetensors")).unwrap();
    let st = SafeTensors::deserialize(&bytes).unwrap();
    Team::new(0).unwrap().enter(|crew| {
        let exact = mean_loss(crew, &Model::open(&dir).unwrap(), &ids);
        println!("exact {exact}");
        let tmp = tempfile::tempdir().unwrap();
        std::fs::copy(dir.join("config.json"), tmp.path().join("config.json")).unwrap();
        for (name, bits, embed) in [
            ("int8", Bits::Int8, Bits::Int8),
            ("int4 + embed8", Bits::Int4, Bits::Int8),
            ("int4", Bits::Int4, Bits::Int4),
        ] {
            let mut data: HashMap<String, (Vec<u8>, Vec<usize>)> = HashMap::new();
            let (mut err, mut tot) = (0.0, 0.0);
            for (n, t) in st.tensors() {
                assert_eq!(t.dtype(), Dtype::F16);
                let tensor = Tensor::from_bytes(t.data(), DType::F16, t.shape()).unwrap();
                let mut w = tensor.to_f32();
                if t.shape().len() == 2 && !n.contains("embed_in") && !n.contains("bias") {
                    let b = if n.contains("embed_out") { embed } else { bits };
                    let q = Quantized::quantize(crew, &tensor, b).dequantize();
                    let e: f64 = q.iter().zip(&w).map(|(q, w)| f64::from(q - w).powi(2)).sum();
                    let s: f64 = w.iter().map(|w| f64::from(*w).powi(2)).sum();
                    if std::env::var("V").is_ok() {
                        println!("{n} {:.5}", (e / s).sqrt());
                    }
                    err += e;
                    tot += s;
                    w = q;
                }
                data.insert(n, (w.iter().flat_map(|x| x.to_le_bytes()).collect(), t.shape().to_vec()));
            }
            let views: Vec<_> = data
                .iter()
                .map(|(n, (b, s))| (n.clone(), TensorView::new(Dtype::F32, s.clone(), b).unwrap()))
                .collect();
            safetensors::serialize_to_file(views, None, &tmp.path().join("model.safetensors")).unwrap();
            let loss = mean_loss(crew, &Model::open(tmp.path()).unwrap(), &ids);
            println!(
                "{name}: rel rms {:.5}  loss {loss:.5}  ppl +{:.3} %",
                (err / tot).sqrt(),
                ((loss - exact).exp() - 1.0) * 100.0
            );
        }
    });
}
