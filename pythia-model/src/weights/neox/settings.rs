//! [`Settings`]: the few keys of a training's `configs/*.yml` that say what the model is.
//!
//! Those files are flat: `"key": value` in braces or `key: value` line by line; GPT-NeoX itself writes some as JSON. What is
//! nested (the optimizer's, say) says nothing of the model. So this reads the outermost keys of all three, rather than
//! YAML; and is no stricter on commas than people are: Pythia's own for 12b lacks one.

use crate::weights::file::shown;
use crate::{Error, Result, disk};
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Pythia's own have 3 KB.
const MAX_LENGTH: u64 = 1 << 20;

/// The settings of a training, by their keys with `_` for `-`.
pub(super) struct Settings {
    /// What errors name: the file, or the folder of several.
    path: PathBuf,
    values: HashMap<String, Vec<Value>>,
}

impl Settings {
    /// Reads the files in a folder that end in `.yml`; `None` if there are none.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>> {
        let entries = std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))?;
        let is_yml = |path: &PathBuf| path.extension().is_some_and(|end| end == "yml" || end == "yaml");
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(is_yml).collect();
        paths.sort();
        let path = match &paths[..] {
            [] => return Ok(None),
            [one] => one.clone(),
            _ => dir.to_owned(),
        };
        let mut settings = Self { path, values: HashMap::new() };
        for path in paths {
            let bytes = disk::read(&path, MAX_LENGTH)?;
            let text = str::from_utf8(&bytes).map_err(|_| Error::file(&path, "expected a text in UTF-8"))?;
            for (key, value) in pairs(text).map_err(|message| Error::file(&path, message))? {
                settings.values.entry(key.replace('-', "_")).or_default().push(value);
            }
        }
        Ok(Some(settings))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// All values of a key: of a list, its elements and those of the lists in it.
    pub(super) fn all(&self, key: &str) -> &[Value] {
        self.values.get(key).map_or(&[], Vec::as_slice)
    }

    /// The value of a key, null if it is absent.
    ///
    /// # Errors
    /// If the files give it several.
    pub(super) fn get(&self, key: &str) -> Result<&Value> {
        let values = self.all(key);
        let first = values.first().unwrap_or(&Value::Null);
        match values.iter().find(|&other| other != first) {
            None => Ok(first),
            Some(other) => {
                let message = format!("is {} and {} too: remove the wrong one", text(first), text(other));
                Err(self.error(key, &message))
            }
        }
    }

    /// A key that is true or false.
    ///
    /// # Errors
    /// If it is neither, or as [`Settings::get`].
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key)? {
            Value::Null => Ok(default),
            Value::Bool(flag) => Ok(*flag),
            other => Err(self.error(key, &format!("expected true or false, found {}", text(other)))),
        }
    }

    /// An error about a key.
    pub(super) fn error(&self, key: &str, message: &str) -> Error {
        Error::file(&self.path, format!("`{}` {message}", key.replace('_', "-")))
    }
}

/// A value, fit for a line of text.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "absent".to_owned(),
        Value::String(text) => shown(text),
        other => other.to_string(),
    }
}

/// What a text consists of.
enum Token<'a> {
    /// A brace or a bracket.
    Open,
    Close,
    Key(&'a str),
    Value(Value),
}

/// The outermost keys and their values; for a list, each of its elements with the key.
fn pairs(text: &str) -> Result<Vec<(&str, Value)>, String> {
    let (mut rest, mut pairs) = (text, Vec::new());
    let (mut depth, mut key) = (0_usize, None);
    // Braces around everything, as in JSON, open no level of their own.
    let mut outermost = 0;
    while let Some(token) = next(&mut rest)? {
        match token {
            Token::Open => {
                outermost += usize::from(depth == 0 && pairs.is_empty() && key.is_none());
                depth += 1;
            }
            Token::Close => {
                depth = depth.checked_sub(1).ok_or("a bracket is closed that was not opened")?;
                key = key.filter(|_| depth > outermost);
            }
            Token::Key(name) if depth <= outermost => key = Some(name),
            // In an object, which is not read.
            Token::Key(_) => key = None,
            Token::Value(value) => {
                pairs.extend(key.map(|key| (key, value)));
                key = key.filter(|_| depth > outermost);
            }
        }
    }
    if depth > 0 { Err("a bracket is not closed".to_owned()) } else { Ok(pairs) }
}

/// Takes one token; `None` at the end. A word before a colon is a key.
fn next<'a>(rest: &mut &'a str) -> Result<Option<Token<'a>>, String> {
    loop {
        *rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',' || c == ':');
        if !rest.starts_with('#') && !rest.starts_with("---") {
            break;
        }
        *rest = rest.split_once('\n').map_or("", |(_, behind)| behind);
    }
    let Some(start) = rest.chars().next() else { return Ok(None) };
    let (_, behind) = rest.split_at(start.len_utf8());
    let (word, value) = match start {
        '{' | '[' | '}' | ']' => {
            *rest = behind;
            return Ok(Some(if start == '{' || start == '[' { Token::Open } else { Token::Close }));
        }
        '"' | '\'' => {
            let word = quoted(behind, start).ok_or("a quote is not closed")?;
            *rest = &behind[word.len() + 1..];
            (word, word.into())
        }
        _ => {
            let end = rest.find([',', ':', '{', '}', '[', ']', '#', '\n']).unwrap_or(rest.len());
            let (word, behind) = rest.split_at(end);
            *rest = behind;
            (word.trim_end(), scalar(word.trim_end()))
        }
    };
    let is_key = rest.trim_start_matches([' ', '\t']).starts_with(':');
    Ok(Some(if is_key { Token::Key(word) } else { Token::Value(value) }))
}

/// What is before the quote that ends a text. Between double quotes, a backslash takes the next one its meaning.
fn quoted(text: &str, quote: char) -> Option<&str> {
    let mut escaped = false;
    let end = text.find(|c| {
        let ends = c == quote && !escaped;
        escaped = c == '\\' && quote == '"' && !escaped;
        ends
    })?;
    text.get(..end)
}

/// What a word without quotes is.
fn scalar(word: &str) -> Value {
    match word {
        "true" | "True" | "TRUE" => true.into(),
        "false" | "False" | "FALSE" => false.into(),
        "null" | "Null" | "NULL" | "None" | "~" => Value::Null,
        // YAML's `.5` and `1.` are numbers; `inf` and `nan` are none here.
        _ => match (word.parse::<u64>(), word.parse::<f64>()) {
            (Ok(n), _) => n.into(),
            (_, Ok(x)) if x.is_finite() => x.into(),
            _ => word.into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn outermost_keys_have_values_in_any_style() {
        let expected = [("a-b", Value::from(1)), ("c", "x".into()), ("d", true.into()), ("d", "y".into())];
        for text in [
            r#"{"a-b": 1, "n": {"c": 2, "m": {"d": 3}}, 'c': "x", "d": [[true], "y"]}"#,
            "# a-b: 2\n{ a-b: 1\n c: x # y\n d: [[true], y]\n}",
            "---\nnone:\na-b: 1\n\"c\" : 'x'\nd: [[True],\n  y]",
        ] {
            assert_eq!(pairs(text).unwrap(), expected, "{text}");
        }
        // What follows an object in a list belongs to no key.
        assert_eq!(pairs("{a: [1, {b: 2}, 3], c: 4}").unwrap(), [("a", 1.into()), ("c", 4.into())]);
        assert_eq!(
            pairs(r#""a\\": "b\"c" d: 'e\'"#).unwrap(),
            [("a\\\\", r#"b\"c"#.into()), ("d", r"e\".into())]
        );
    }

    proptest! {
        /// No text makes this panic, or go on for ever.
        #[test]
        fn any_text_is_settings_or_an_error(text in "[a-b\"'{}\\[\\]:,#\\\\ \n-]{0,40}|\\PC{0,20}") {
            if let Err(message) = pairs(&text) {
                prop_assert!(message.starts_with("a bracket is") || message == "a quote is not closed", "{}", message);
            }
        }
    }
}
