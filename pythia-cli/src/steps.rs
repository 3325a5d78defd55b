//! `--steps` and `--revision`: which checkpoints of a model.

use anyhow::{Context, Result, ensure};
use pythia_model::suite::Published;

/// Checkpoints of a model on the command line.
#[derive(Debug, clap::Args)]
pub(crate) struct CheckpointsArgs {
    /// The checkpoints, such as 0,512,1000..143000:10000 or all
    #[arg(long, value_name = "STEPS", conflicts_with = "revision")]
    steps: Option<String>,
    /// A branch, a tag or a commit instead of steps
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
}

impl CheckpointsArgs {
    /// Whether any are asked for.
    pub(crate) fn given(&self) -> bool {
        self.steps.is_some() || self.revision.is_some()
    }

    /// The revisions asked for, each once, if any are; of a model of the suite only what there is.
    pub(crate) fn revisions(&self, model: Option<&Published>) -> Result<Option<Vec<String>>> {
        if let Some(steps) = &self.steps {
            return Ok(Some(parse(steps, model)?.into_iter().map(|step| format!("step{step}")).collect()));
        }
        if let (Some(model), Some(revision)) = (model, &self.revision) {
            model.check_revision(revision)?;
        }
        Ok(self.revision.clone().map(|revision| vec![revision]))
    }
}

/// The steps that a list such as `0,1,512,1000..143000:10000` or `all` stands for, sorted, each once; of a model of the suite only
/// what there is.
pub(crate) fn parse(steps: &str, model: Option<&Published>) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    for part in steps.split(',') {
        found.extend(steps_of(part.trim(), model).with_context(|| format!("--steps {steps}"))?);
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The steps that `all`, `N`, `FROM..TO` or `FROM..TO:BY` stands for.
fn steps_of(part: &str, model: Option<&Published>) -> Result<Vec<u64>> {
    let saved = || {
        let model =
            model.with_context(|| format!("`{part}` needs a model of the suite: give single steps"))?;
        Ok::<_, anyhow::Error>(model.checkpoints().map(|checkpoint| checkpoint.step))
    };
    let number = |text: &str| {
        let digits = text.strip_prefix("step").unwrap_or(text);
        let hint = || format!("`{part}` is not a step, FROM..TO, FROM..TO:BY or all");
        digits.parse::<u64>().with_context(hint)
    };
    let steps: Vec<u64> = match part.split_once("..") {
        None if part == "all" => saved()?.collect(),
        None => vec![number(part)?],
        Some((from, to)) => {
            let (to, by) = match to.split_once(':') {
                Some((to, by)) => (to, Some(number(by)?)),
                None => (to, None),
            };
            let (from, to) = (number(from)?, number(to)?);
            ensure!(from <= to && by != Some(0), "`{part}` is empty: expected FROM..TO:BY with BY above 0");
            match by {
                None => saved()?.filter(|step| (from..=to).contains(step)).collect(),
                Some(by) => {
                    // Also who follows no list has no more than so many.
                    ensure!((to - from) / by < 100_000, "`{part}` has too many steps: raise the {by}");
                    (0..=(to - from) / by).map(|i| from + i * by).collect()
                }
            }
        }
    };
    ensure!(!steps.is_empty(), "`{part}` has no checkpoint: `pythia-cli checkpoints` lists them");
    if let Some(model) = model {
        steps.iter().try_for_each(|step| model.check_step(*step))?;
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pythia_model::suite;

    fn of(model: &str, steps: &str) -> Result<Vec<u64>> {
        parse(steps, suite::find(model))
    }

    #[test]
    fn steps_are_single_ones_ranges_or_all() {
        let some = of("410m", "0,1,512, step1000..143000:10000,1").unwrap();
        assert_eq!(some[..5], [0, 1, 512, 1000, 11_000]);
        assert_eq!((some.len(), some.last()), (3 + 15, Some(&141_000)));
        assert_eq!(of("410m", "all").unwrap().len(), 154);
        assert_eq!(of("410m-v0", "all").unwrap().len(), 143);
        assert_eq!(of("410m", "100..2000").unwrap(), [128, 256, 512, 1000, 2000]);
        assert_eq!(of("someone/else", "5,7..9:2").unwrap(), [5, 7, 9]);
    }

    #[test]
    fn wrong_steps_are_named() {
        for (model, steps, says) in [
            ("410m", "3001", "nearest are step3000 and step4000"),
            ("410m", "0..143000:10000,500", "nearest are step256 and step512"),
            ("410m", "0..500:250", "no checkpoint step250"),
            ("410m", "600..700", "has no checkpoint"),
            ("410m", "2..1", "`2..1` is empty"),
            ("410m", "1..2:0", "is empty"),
            ("410m", "", "`` is not a step"),
            ("410m", "1..", "`1..` is not a step"),
            ("410m", "-1", "`-1` is not a step"),
            ("410m", "0..18446744073709551615:1", "too many steps"),
            ("someone/else", "all", "needs a model of the suite"),
        ] {
            let error = format!("{:#}", of(model, steps).unwrap_err());
            assert!(error.starts_with(&format!("--steps {steps}: ")) && error.contains(says), "{error}");
        }
    }
}
