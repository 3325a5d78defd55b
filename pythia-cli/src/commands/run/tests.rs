use super::*;
use crate::args::{Cli, Command};
use crate::model::Place;
use clap::Parser as _;
use pythia_tensor::Team;
use std::cell::RefCell;
use std::io::Write;
use std::rc::Rc;

/// What was written.
#[derive(Clone, Default)]
struct Screen(Rc<RefCell<Vec<u8>>>);

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The replies to lines that a user types, and how the conversation ends.
fn converse(lines: &str, options: &[&str]) -> (Vec<String>, Result<()>) {
    let cli = Cli::parse_from(["pythia-cli", "run"].iter().chain(options));
    let Command::Run(args) = cli.command else { panic!("not run") };
    let (opened, screen) = (Place::Embedded.open().unwrap(), Screen::default());
    let ended = Team::new(1).unwrap().enter(|crew| {
        let writer = Writer { opened: &opened, name: "the embedded model", crew, args: &args };
        let speculation = args.speculation.speculation(None, &opened)?;
        writer.converse(
            lines.as_bytes(),
            &args.generation.config(),
            speculation,
            &mut Out::to(screen.clone()),
        )
    });
    let shown = String::from_utf8(screen.0.take()).unwrap();
    (shown.split("> ").skip(1).map(str::to_owned).collect(), ended)
}

/// The greedy continuation of a whole text.
fn continued(text: &str, new: usize) -> String {
    let tokenizer = Place::Embedded.open().unwrap().tokenizer.unwrap();
    let config = GenerationConfig { max_new_tokens: new, ..Default::default() };
    generated(&tokenizer.encode(text).unwrap(), &config).text
}

/// The embedded model's continuation of some tokens.
fn generated(ids: &[u32], config: &GenerationConfig) -> Generated {
    let Opened { model, tokenizer } = Place::Embedded.open().unwrap();
    let mut cache = model.cache(ids.len() + config.max_new_tokens).unwrap();
    let generated = Team::new(1).unwrap().enter(|crew| {
        let (tokenizer, workspace) = (tokenizer.as_ref(), &mut Workspace::new());
        generate(&model, tokenizer, crew, workspace, &mut cache, ids, config, &mut |_| {
            ControlFlow::Continue(())
        })
    });
    generated.unwrap().remove(0)
}

/// A reply that ended with what is not shown: the next one goes on from what is.
fn check_context_is_what_was_shown(
    options: &[&str],
    config: &GenerationConfig,
    kept: impl Fn(&Generated) -> Vec<u32>,
) {
    let tokenizer = Place::Embedded.open().unwrap().tokenizer.unwrap();
    let (replies, ended) = converse("Once upon\nThe old man\n", &[options, &["--no-echo"]].concat());
    ended.unwrap();
    let prompt = tokenizer.encode("Once upon").unwrap();
    let first = generated(&prompt, config);
    assert_eq!(replies[0], format!("{}\n", first.text));
    let line = tokenizer.encode("\nThe old man").unwrap();
    let [shown, all] = [kept(&first), first.ids].map(|ids| [&prompt[..], &ids[..], &line[..]].concat());
    let [want, wrong] = [shown, all].map(|ids| format!("{}\n", generated(&ids, config).text));
    assert_ne!(want, wrong, "this prompt does not tell the two apart");
    assert_eq!(replies[1], want);
}

#[test]
fn the_ending_token_does_not_stay_in_a_conversation() {
    let mut config = GenerationConfig { max_new_tokens: 16, min_new_tokens: 12, ..Default::default() };
    config.sampling.logit_bias = vec![(0, 100.0)];
    let options = ["-n", "16", "--min-new-tokens", "12", "--logit-bias", "0=100"];
    check_context_is_what_was_shown(&options, &config, |first| {
        assert_eq!((first.ids.len(), first.ids[12]), (13, 0));
        first.ids[..12].to_vec()
    });
}

#[test]
fn a_stop_string_does_not_stay_in_a_conversation() {
    let tokenizer = Place::Embedded.open().unwrap().tokenizer.unwrap();
    let text = continued("Once upon", 12);
    let stop: String = text.chars().skip(text.chars().count() / 2).take(5).collect();
    let config = GenerationConfig { max_new_tokens: 16, stop: vec![stop.clone()], ..Default::default() };
    check_context_is_what_was_shown(&["-n", "16", "--stop", &stop], &config, |first| {
        assert!(tokenizer.decode(&first.ids).len() > first.text.len(), "nothing was cut off");
        tokenizer.encode(&first.text).unwrap()
    });
}

#[test]
fn each_line_continues_the_text() {
    let (replies, ended) = converse("\nOnce upon\n\nThe old man\n", &["-n", "6"]);
    ended.unwrap();
    let [empty, first, more, second, end] = &replies[..] else { panic!("{replies:?}") };
    assert_eq!((empty.as_str(), end.as_str()), ("", "\n"), "nothing to continue, and the end of the input");
    // The two replies before the second line are one text.
    let both = format!("{}{}", first.trim_end_matches('\n'), more.trim_end_matches('\n'));
    assert_eq!(both, format!("Once upon{}", continued("Once upon", 12)));
    assert_eq!(*second, format!("The old man{}\n", continued(&format!("{both}\nThe old man"), 6)));
}

#[test]
fn a_conversation_with_speculation_is_the_same() {
    let lines = "Once upon\nThe old man\n\nOnce upon\n";
    let (plain, _) = converse(lines, &["-n", "40", "--ignore-eos"]);
    let (lookup, ended) = converse(lines, &["-n", "40", "--ignore-eos", "--lookup"]);
    ended.unwrap();
    assert_eq!(lookup, plain);
}

#[test]
fn a_conversation_ends_when_the_context_is_full() {
    let (replies, ended) = converse(&"Go on.\n".repeat(9), &["-n", "200", "--ignore-eos", "--no-echo"]);
    let message = ended.unwrap_err().to_string();
    assert!(message.contains("context of 512: start anew"), "{message}");
    assert_eq!(replies.len(), 4, "two replies of 200 tokens, one shorter, and none");
    assert!(!replies[0].starts_with("Go on."));
}
