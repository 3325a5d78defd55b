//! What is known to be wrong with published checkpoints.

use super::{Published, Variant};
use std::fmt;
use std::ops::RangeInclusive;

/// Something wrong with checkpoints as they are served, for which nothing can be done here but to know it.
#[derive(Debug, PartialEq, Eq)]
pub struct Defect {
    /// What is wrong.
    pub what: &'static str,
    /// Where it is reported.
    pub reference: &'static str,
    /// None for every size.
    size: Option<&'static str>,
    variants: &'static [Variant],
    /// None for every checkpoint, and the final model.
    steps: Option<&'static [RangeInclusive<u64>]>,
}

const fn one(step: u64) -> RangeInclusive<u64> {
    step..=step
}

/// The issues of <https://github.com/EleutherAI/pythia> that report them.
static DEFECTS: [Defect; 8] = [
    Defect {
        what: "has the weights of the final model, not those of its step",
        reference: "EleutherAI/pythia#205",
        size: Some("2.8b"),
        variants: &[Variant::Standard],
        steps: Some(&[
            0..=53_000,
            one(55_000),
            one(60_000),
            one(65_000),
            one(70_000),
            one(80_000),
            one(90_000),
            one(100_000),
            one(103_000),
            one(110_000),
            one(120_000),
            one(130_000),
            one(140_000),
        ]),
    },
    Defect {
        what: "has the same weights as nine other steps, from the end of the training but not those of main",
        reference: "EleutherAI/pythia#205",
        size: Some("2.8b"),
        variants: &[Variant::Standard],
        steps: Some(&[one(54_000), 56_000..=59_000, 61_000..=64_000, one(143_000)]),
    },
    Defect {
        what: "has the first of its three shards from the final model",
        reference: "EleutherAI/pythia#206",
        size: Some("12b"),
        variants: &[Variant::Standard],
        steps: Some(&[one(50_000), one(58_000)]),
    },
    Defect {
        what: "may have the same weights as its neighbours: step0 and step1 do, step2 in part",
        reference: "EleutherAI/pythia#83, #198",
        size: None,
        variants: &[Variant::Standard, Variant::Deduped],
        steps: Some(&[0..=2]),
    },
    Defect {
        what: "does not descend from its own step0",
        reference: "EleutherAI/pythia#203",
        size: Some("160m"),
        variants: &[Variant::WeightSeed(1), Variant::WeightSeed(2)],
        steps: None,
    },
    no_weights(&[Variant::Seed(9)], &[one(40_000)]),
    no_weights(&[Variant::Seed(6)], &[one(88_000)]),
    no_weights(&[Variant::Seed(2)], &[one(111_000)]),
];

const fn no_weights(variants: &'static [Variant], steps: &'static [RangeInclusive<u64>]) -> Defect {
    Defect {
        what: "has no weights",
        reference: "EleutherAI/pythia#202",
        size: Some("410m"),
        variants,
        steps: Some(steps),
    }
}

impl Published {
    /// What is known to be wrong with one of its revisions: `stepN`, or `main`.
    pub fn defects(&self, revision: &str) -> impl Iterator<Item = &'static Defect> {
        let step: Option<u64> = revision.strip_prefix("step").and_then(|step| step.parse().ok());
        self.all_defects().filter(move |defect| {
            let concerns =
                |step| defect.steps.is_none_or(|steps| steps.iter().any(|range| range.contains(&step)));
            step.map_or(defect.steps.is_none(), concerns)
        })
    }

    /// What is known to be wrong with any of its revisions.
    pub fn all_defects(&self) -> impl Iterator<Item = &'static Defect> {
        DEFECTS.iter().filter(|defect| defect.concerns(self))
    }
}

impl Defect {
    fn concerns(&self, model: &Published) -> bool {
        self.size.is_none_or(|size| size == model.size.name) && self.variants.contains(&model.variant)
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.what, self.reference)
    }
}
