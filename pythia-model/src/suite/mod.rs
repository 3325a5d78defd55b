//! The suite as it was published: every model under its name, how it was trained, its checkpoints.

mod checkpoints;
mod defects;
#[cfg(test)]
mod tests;
mod training;

pub use checkpoints::Checkpoint;
pub use defects::Defect;
pub use training::TOKENS_PER_STEP;

use crate::{Parameters, Precision, SIZES, Size};
use pythia_tensor::Quantized;
use std::sync::LazyLock;

/// The organisation and the start of the names of the suite's repositories on the Hub.
const HUB: &str = "EleutherAI/pythia-";

/// What sizes were called before January 2023, and are called today.
const OLD_NAMES: [[&str; 2]; 8] = [
    ["19m", "70m"],
    ["125m", "160m"],
    ["350m", "410m"],
    ["800m", "1b"],
    ["1.3b", "1.4b"],
    ["2.7b", "2.8b"],
    ["6.7b", "6.9b"],
    ["13b", "12b"],
];

/// What distinguishes a model from the others of its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Trained on the Pile, with the seed 1234.
    Standard,
    /// Trained on the Pile after deduplication.
    Deduped,
    /// The first version of [`Variant::Standard`], which some papers used.
    V0,
    /// The first version of [`Variant::Deduped`].
    DedupedV0,
    /// Other initial weights and another order of the data.
    Seed(u8),
    /// Another order of the data only.
    DataSeed(u8),
    /// Other initial weights only.
    WeightSeed(u8),
    /// [`Variant::Deduped`], with the gender of pronouns swapped in the last 7 % of its training.
    Intervention,
    /// The same in the last 21 %.
    LongIntervention,
}

/// A model of the suite.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    /// As after `EleutherAI/pythia-`: `410m-deduped`.
    pub name: String,
    /// Its shape.
    pub size: &'static Size,
    /// What distinguishes it from the others of its size.
    pub variant: Variant,
}

/// The bytes that a model needs in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Its weights.
    pub weights: u64,
    /// The keys and values of a context of 2048 tokens.
    pub cache: u64,
}

/// Every model of the suite: the 16 of the article and their two small siblings, the first versions, the runs with other
/// seeds, and those with an intervention; each by size.
pub fn models() -> &'static [Published] {
    static MODELS: LazyLock<Vec<Published>> = LazyLock::new(|| {
        use Variant as V;
        let article = |size: &Size| !["14m", "31m"].contains(&size.name);
        let seeds = |size: &Size| ["14m", "31m", "70m", "160m", "410m"].contains(&size.name);
        let one = |size: &Size| size.name == "160m";
        let intervened = |size: &Size| ["70m", "410m", "1.4b", "6.9b"].contains(&size.name);
        let mut models = Vec::new();
        let mut add = |sizes: &dyn Fn(&Size) -> bool, variants: &[Variant]| {
            for size in SIZES.iter().filter(|size| sizes(size)) {
                models.extend(variants.iter().map(|variant| Published::new(size, *variant)));
            }
        };
        add(&|size| !article(size), &[V::Standard]);
        add(&article, &[V::Standard, V::Deduped]);
        add(&article, &[V::V0, V::DedupedV0]);
        add(&seeds, &(1..=9).map(V::Seed).collect::<Vec<_>>());
        add(&one, &(1..=3).map(V::DataSeed).collect::<Vec<_>>());
        add(&one, &(1..=3).map(V::WeightSeed).collect::<Vec<_>>());
        add(&intervened, &[V::Intervention]);
        add(&|size| size.name == "1.4b", &[V::LongIntervention]);
        models
    });
    &MODELS
}

/// The model with this name: `410m-deduped`, `pythia-410m-deduped` or `EleutherAI/pythia-410m-deduped`, in capitals or
/// not. The names from before January 2023 (`350m-deduped`) lead to the model of today.
pub fn find(name: &str) -> Option<&'static Published> {
    let name = name.to_ascii_lowercase();
    let member = match name.strip_prefix(&HUB.to_ascii_lowercase()) {
        Some(member) => member,
        None => name.strip_prefix("pythia-").unwrap_or(&name),
    };
    let today = |part| OLD_NAMES.iter().find(|[old, _]| *old == part).map_or(part, |[_, today]| *today);
    let member = member.split('-').map(today).collect::<Vec<_>>().join("-");
    models().iter().find(|model| model.name == member)
}

impl Published {
    fn new(size: &'static Size, variant: Variant) -> Self {
        let size_name = size.name;
        let name = match variant {
            Variant::Standard => size_name.to_owned(),
            Variant::Deduped => format!("{size_name}-deduped"),
            Variant::V0 => format!("{size_name}-v0"),
            Variant::DedupedV0 => format!("{size_name}-deduped-v0"),
            Variant::Seed(seed) => format!("{size_name}-seed{seed}"),
            Variant::DataSeed(seed) => format!("{size_name}-data-seed{seed}"),
            Variant::WeightSeed(seed) => format!("{size_name}-weight-seed{seed}"),
            Variant::Intervention => format!("intervention-{size_name}-deduped"),
            Variant::LongIntervention => format!("intervention-long-{size_name}-deduped"),
        };
        Self { name, size, variant }
    }

    /// The repository on the Hugging Face Hub.
    pub fn hub_id(&self) -> String {
        format!("{HUB}{}", self.name)
    }

    /// The number of weights.
    pub fn parameters(&self) -> Parameters {
        self.size.config().parameters()
    }

    /// What it was trained on.
    pub fn data(&self) -> &'static str {
        match self.variant {
            Variant::Standard
            | Variant::V0
            | Variant::Seed(_)
            | Variant::DataSeed(_)
            | Variant::WeightSeed(_) => "the Pile",
            Variant::Deduped | Variant::DedupedV0 => "the Pile, deduplicated",
            Variant::Intervention => "the Pile, deduplicated; gender of pronouns swapped in the last 7 %",
            Variant::LongIntervention => {
                "the Pile, deduplicated; gender of pronouns swapped in the last 21 %"
            }
        }
    }

    fn is_v0(&self) -> bool {
        matches!(self.variant, Variant::V0 | Variant::DedupedV0)
    }

    /// What it needs in memory to run with a full context. A prompt's activations come on top.
    pub fn memory(&self, precision: Precision) -> Memory {
        let config = self.size.config();
        let [v, c, l] = [config.vocab_size, config.hidden_size, config.num_hidden_layers].map(|n| n as u64);
        let total = config.parameters().total;
        let weights = match precision.bits() {
            // As published: two bytes each.
            None => 2 * total,
            Some(bits) => {
                // Only the matrices are quantised; a published size's can be counted.
                let bytes =
                    |rows, columns| Quantized::byte_len(bits, [rows, columns]).unwrap_or(usize::MAX) as u64;
                let linears = config.linears();
                let elements: u64 = linears.iter().map(|m| (m.rows * m.columns) as u64).sum();
                let quantised: u64 = linears.iter().map(|m| bytes(m.rows, m.columns)).sum();
                l * quantised
                    + bytes(config.vocab_size, config.hidden_size)
                    + 2 * (total - l * elements - v * c)
            }
        };
        let number = if precision == Precision::Exact { 4 } else { 2 };
        Memory { weights, cache: 2 * number * l * c * config.max_position_embeddings as u64 }
    }
}
