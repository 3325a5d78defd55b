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
        writer.converse(lines.as_bytes(), &args.generation.config(), &mut Out::to(screen.clone()))
    });
    let shown = String::from_utf8(screen.0.take()).unwrap();
    (shown.split("> ").skip(1).map(str::to_owned).collect(), ended)
}

/// The greedy continuation of a whole text.
fn continued(text: &str, new: usize) -> String {
    let Opened { model, tokenizer } = Place::Embedded.open().unwrap();
    let ids = tokenizer.as_ref().unwrap().encode(text).unwrap();
    let config = GenerationConfig { max_new_tokens: new, ..Default::default() };
    let mut cache = model.cache(ids.len() + new).unwrap();
    let generated = Team::new(1).unwrap().enter(|crew| {
        let (tokenizer, workspace) = (tokenizer.as_ref(), &mut Workspace::new());
        generate(&model, tokenizer, crew, workspace, &mut cache, &ids, &config, &mut |_| {
            ControlFlow::Continue(())
        })
    });
    generated.unwrap().remove(0).text
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
fn a_conversation_ends_when_the_context_is_full() {
    let (replies, ended) = converse(&"Go on.\n".repeat(9), &["-n", "200", "--ignore-eos", "--no-echo"]);
    let message = ended.unwrap_err().to_string();
    assert!(message.contains("context of 512: start anew"), "{message}");
    assert_eq!(replies.len(), 4, "two replies of 200 tokens, one shorter, and none");
    assert!(!replies[0].starts_with("Go on."));
}
