use super::*;
use crate::tokenizer::tests::small_tokenizer;
use proptest::prelude::*;

fn stops(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&s| s.to_owned()).collect()
}

/// Feeds `ids` until the stream stops: the pieces, the rest and which stop string was met.
fn run(tokenizer: &Tokenizer, ids: &[u32], stops: &[String]) -> (Vec<String>, String, Option<usize>) {
    let mut stream = TextStream::new(tokenizer, stops).unwrap();
    let mut pieces = Vec::new();
    for &id in ids {
        let piece = stream.push(id);
        pieces.push(piece.text);
        if piece.stopped.is_some() {
            return (pieces, stream.finish(), piece.stopped);
        }
    }
    (pieces, stream.finish(), None)
}

fn bytes(text: &[u8]) -> Vec<u32> {
    text.iter().map(|&byte| u32::from(byte) + 1).collect()
}

#[test]
fn characters_come_whole() {
    let t = small_tokenizer();
    let (pieces, rest, _) = run(&t, &bytes("a€🎉".as_bytes()), &[]);
    assert_eq!(pieces, ["a", "", "", "€", "", "", "", "🎉"]);
    assert_eq!(rest, "");
}

#[test]
fn invalid_bytes_become_replacement_characters_when_nothing_can_mend_them() {
    let t = small_tokenizer();
    let (pieces, rest, _) = run(&t, &bytes(b"\xffa\xe2\x82b\xf0\x9f"), &[]);
    assert_eq!(pieces, ["\u{fffd}", "a", "", "", "\u{fffd}b", "", ""]);
    assert_eq!(rest, "\u{fffd}");
}

#[test]
fn what_may_begin_a_stop_string_is_held_back() {
    let t = small_tokenizer();
    let (pieces, rest, stopped) = run(&t, &bytes(b"x\n\nQ:\nQ;"), &stops(&["\n\nQ:\n\n"]));
    assert_eq!(pieces, ["x", "", "", "", "", "", "\n\nQ:\nQ", ";"]);
    assert_eq!((rest.as_str(), stopped), ("", None));
    let (pieces, rest, _) = run(&t, &bytes(b"x\n"), &stops(&["\n\n"]));
    assert_eq!((pieces.concat().as_str(), rest.as_str()), ("x", "\n"));
}

#[test]
fn stops_span_tokens_and_begin_inside_them() {
    let t = small_tokenizer();
    let ids = [t.encode("ab").unwrap(), t.encode("abab").unwrap(), bytes(b"c")].concat();
    assert_eq!(ids.len(), 3);
    // The first a of the first token is text; the stop takes its b and part of the second token.
    let (pieces, rest, stopped) = run(&t, &ids, &stops(&["zz", "baba"]));
    assert_eq!((pieces, rest.as_str(), stopped), (stops(&["a", ""]), "", Some(1)));
    // A multi-byte stop across bytes.
    let (pieces, _, stopped) = run(&t, &bytes("x€y".as_bytes()), &stops(&["€"]));
    assert_eq!((pieces.concat().as_str(), stopped), ("x", Some(0)));
}

#[test]
fn the_earliest_start_wins_and_the_stream_stays_stopped() {
    let t = small_tokenizer();
    // One token completes "b", "bab" and "ab" at once: "ab" starts first.
    let (_, _, stopped) = run(&t, &[261], &stops(&["b", "bab", "ab"]));
    assert_eq!(stopped, Some(2));
    let (_, _, stopped) = run(&t, &[261], &stops(&["aba", "ab"]));
    assert_eq!(stopped, Some(0));
    let stops = stops(&["b"]);
    let mut stream = TextStream::new(&t, &stops).unwrap();
    assert_eq!(stream.push(257), Piece { text: "a".into(), stopped: Some(0) });
    assert_eq!(stream.push(257), Piece { text: String::new(), stopped: Some(0) });
    assert_eq!(stream.finish(), "");
}

#[test]
fn empty_stop_strings_are_refused() {
    let error = TextStream::new(&small_tokenizer(), &stops(&["\n", ""])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "stop string 2 of 2 is empty, it would end every text at once; leave it out"
    );
}

#[test]
fn unknown_ids_have_no_text() {
    let t = small_tokenizer();
    assert_eq!(run(&t, &[99_999, 257, 99_999], &[]).0, ["", "ab", ""]);
}

/// The same, the slow way: everything is decoded again after each token.
fn naive(tokenizer: &Tokenizer, ids: &[u32], stops: &[String]) -> (String, Option<usize>) {
    for n in 1..=ids.len() {
        let bytes: Vec<u8> =
            ids[..n].iter().filter_map(|&id| tokenizer.token_bytes(id)).flatten().copied().collect();
        let incomplete = (1..=bytes.len().min(3))
            .find(|&k| {
                std::str::from_utf8(&bytes[bytes.len() - k..])
                    .is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none())
            })
            .unwrap_or(0);
        let text = String::from_utf8_lossy(&bytes[..bytes.len() - incomplete]).into_owned();
        let found =
            stops.iter().enumerate().filter_map(|(i, stop)| Some((text.find(stop.as_str())?, i))).min();
        if let Some((start, i)) = found {
            return (text[..start].to_owned(), Some(i));
        }
    }
    let text = tokenizer.decode(ids);
    let cut = stops.iter().filter_map(|stop| text.find(stop.as_str())).min();
    (text[..cut.unwrap_or(text.len())].to_owned(), None)
}

/// Mostly a, b, spaces, parts of characters: what stop strings and characters are made of.
fn any_ids() -> impl Strategy<Value = Vec<u32>> {
    let id = prop_oneof![
        4 => prop::sample::select(vec![98, 99, 257, 258, 261, 33]),
        2 => prop::sample::select(vec![259, 260, 0xC3 + 1, 0xE2 + 1, 0x82 + 1, 0xAC + 1, 0xF0 + 1, 0x9F + 1]),
        1 => 0_u32..266,
    ];
    prop::collection::vec(id, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn pieces_join_to_the_decoded_text_cut_at_the_stop(
        ids in any_ids(),
        stops in prop::collection::vec(prop_oneof!["[ab é€]{1,5}", "[ab]{1,4}", "\\PC{1,3}", Just("\u{fffd}".to_owned())], 0..4),
    ) {
        let t = small_tokenizer_once();
        let (pieces, rest, stopped) = run(t, &ids, &stops);
        let joined = pieces.concat() + &rest;
        prop_assert_eq!((joined, stopped), naive(t, &ids, &stops));
        if stops.is_empty() {
            prop_assert_eq!(pieces.concat() + &rest, t.decode(&ids));
        }
    }
}

fn small_tokenizer_once() -> &'static Tokenizer {
    static TOKENIZER: std::sync::OnceLock<Tokenizer> = std::sync::OnceLock::new();
    TOKENIZER.get_or_init(small_tokenizer)
}
