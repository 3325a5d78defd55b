use super::*;
use pythia_tensor::DType;

fn named(name: &str) -> &'static Published {
    find(name).unwrap_or_else(|| panic!("{name}"))
}

#[test]
fn every_model_is_there_once_and_found_by_its_names() {
    // 2 small, 16 of the article, 16 first versions, 9 seeds of 5 sizes, 3 and 3 of 160m, 5 with an intervention.
    assert_eq!(models().len(), 2 + 16 + 16 + 45 + 6 + 5);
    for model in models() {
        for name in [model.name.clone(), format!("Pythia-{}", model.name.to_uppercase()), model.hub_id()] {
            assert_eq!(find(&name), Some(model), "{name}");
        }
    }
    assert_eq!(named("160m-weight-seed2").hub_id(), "EleutherAI/pythia-160m-weight-seed2");
}

#[test]
fn old_names_lead_to_the_models_of_today() {
    for (old, new) in [
        ("19m", "70m"),
        ("125m", "160m"),
        ("350m", "410m"),
        ("800m", "1b"),
        ("1.3b", "1.4b"),
        ("2.7b", "2.8b"),
        ("6.7b", "6.9b"),
        ("13b", "12b"),
    ] {
        for variant in ["", "-deduped", "-v0"] {
            assert_eq!(named(&format!("EleutherAI/pythia-{old}{variant}")).name, format!("{new}{variant}"));
        }
    }
}

#[test]
fn what_was_not_published_is_not_found() {
    for name in [
        "",
        "71m",
        "pythia",
        "14m-deduped",
        "31m-v0",
        "1b-seed1",
        "160m-seed0",
        "160m-seed12",
        "410m-data-seed1",
        "intervention-70m",
        "EleutherAI/70m",
        "EleutherAI/pythia-pythia-70m",
        "someone/pythia-70m",
    ] {
        assert_eq!(find(name), None, "{name}");
    }
}

#[test]
fn all_models_of_the_article_have_154_checkpoints_and_the_same_tokens() {
    for model in models() {
        let count = match model.variant {
            Variant::V0 | Variant::DedupedV0 => 143,
            Variant::Intervention => 10,
            Variant::LongIntervention => 30,
            _ => 154,
        };
        assert_eq!(model.checkpoints().count(), count, "{}", model.name);
        assert_eq!(model.tokens(), 299_892_736_000, "{}", model.name);
    }
    let steps: Vec<u64> = named("70m").checkpoints().map(|c| c.step).take(14).collect();
    assert_eq!(steps, [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 3000]);
}

#[test]
fn first_versions_count_steps_of_the_usual_size() {
    let first = |name: &str| named(name).checkpoints().next().unwrap();
    let of_410m = first("410m-deduped-v0");
    assert_eq!((of_410m.step, of_410m.steps_taken, of_410m.tokens), (1000, 500, 2_097_152_000));
    assert_eq!(named("410m-v0").checkpoints().last().unwrap().steps_taken, 71_500);
    assert_eq!(first("70m-v0").steps_taken, 1000);
    assert_eq!(named("410m-v0").batch_tokens(), 4_194_304);
}

#[test]
fn the_training_of_every_size_is_known_but_of_first_versions() {
    for model in models() {
        let known = !model.name.ends_with("-v0");
        assert_eq!(model.learning_rate().is_some(), known, "{}", model.name);
        assert_eq!(model.trained_in().is_some(), known, "{}", model.name);
    }
    assert_eq!((named("410m").learning_rate(), named("410m").trained_in()), (Some(3e-4), Some(DType::F16)));
    assert_eq!((named("1b").learning_rate(), named("1b").trained_in()), (Some(3e-4), Some(DType::BF16)));
}

#[test]
fn a_wrong_step_gets_its_neighbours() {
    let model = named("410m");
    for revision in ["main", "step0", "step512", "step143000", "step", "step1-fixed", "v1", "steps"] {
        model.check_revision(revision).unwrap();
    }
    for (name, revision, says) in [
        ("410m", "step3001", "nearest are step3000 and step4000"),
        ("410m", "step3", "nearest are step2 and step4"),
        ("410m", "step700", "nearest are step512 and step1000"),
        ("410m", "step143001", "nearest is step143000"),
        ("410m", "step99999999999999999999999", "nearest is step143000"),
        ("410m", "step03000", "it is called step3000"),
        ("410m-v0", "step512", "nearest is step1000"),
        ("intervention-70m-deduped", "step1000", "nearest is step134000"),
    ] {
        let message = named(name).check_revision(revision).unwrap_err().to_string();
        assert!(
            message.starts_with(&format!("EleutherAI/pythia-{name} has no checkpoint step")),
            "{message}"
        );
        assert!(message.ends_with(says), "{message}");
    }
}

#[test]
fn memory_is_that_of_the_weights_and_a_full_context() {
    let Memory { weights, cache } = named("410m").memory(Precision::Exact);
    assert_eq!((weights, cache), (2 * 405_334_016, 2 * 4 * 24 * 1024 * 2048));
    for precision in [Precision::Bf16, Precision::Int8, Precision::Int4] {
        assert_eq!(named("410m").memory(precision).cache, cache / 2, "{precision}");
    }
    for model in models() {
        let [exact, int8, int4] =
            [Precision::Exact, Precision::Int8, Precision::Int4].map(|p| model.memory(p).weights);
        assert!(int4 < int8 && int8 < exact, "{}", model.name);
    }
}

#[test]
fn known_defects_are_those_that_were_reported() {
    let steps = |name: &str, reference: &str| {
        let model = named(name);
        let has = |c: &Checkpoint| {
            model.defects(&format!("step{}", c.step)).any(|d| d.reference.contains(reference))
        };
        model.checkpoints().filter(has).map(|c| c.step).collect::<Vec<_>>()
    };
    // 76 with the weights of main, and 10 with others.
    assert_eq!(steps("2.8b", "#205").len(), 86);
    assert_eq!(steps("12b", "#206"), [50_000, 58_000]);
    assert_eq!(steps("70m-deduped", "#83"), [0, 1, 2]);
    assert_eq!(steps("160m-weight-seed2", "#203").len(), 154);
    assert_eq!(steps("410m-seed9", "#202"), [40_000]);
    assert!(steps("2.8b-deduped", "#205").is_empty());
    for (name, revision, count) in
        [("2.8b", "main", 0), ("160m-weight-seed1", "main", 1), ("410m", "step3000", 0)]
    {
        assert_eq!(named(name).defects(revision).count(), count, "{name} {revision}");
    }
    assert_eq!(named("2.8b").all_defects().count(), 3);
}
