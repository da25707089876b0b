use super::super::super::testing::{Encoded, bool, f32s, i32s, string, strings, u32};
use super::super::tests::{file, pieces, read, tokenizer};
use crate::error::Error;

/// The pieces of a vocabulary as `SentencePiece` trains it, with their scores.
pub(in super::super) fn scored() -> Vec<(String, f32, i32)> {
    let mut pieces: Vec<(String, f32, i32)> = vec![
        ("<unk>".to_owned(), 0.0, 2),
        ("<s>".to_owned(), 0.0, 3),
        ("</s>".to_owned(), 0.0, 3),
    ];
    pieces.extend((0..=255).map(|byte| (format!("<0x{byte:02X}>"), 0.0, 6)));
    let joined = [
        "\u{2581}a",
        "bc",
        "ab",
        "abc",
        "\u{2581}ab",
        "ca",
        "aa",
        "bb",
        "\u{2581}\u{2581}",
        "cab",
        "\u{2581}abc",
        "bca",
        "aaa",
        "\u{2581}aa",
        "bcab",
        "cc",
        "\u{2581}c",
    ];
    let characters = ["\u{2581}", "a", "b", "c", "\u{e9}"];
    let mut score = 0.0;
    for piece in joined.into_iter().chain(characters) {
        pieces.push((piece.to_owned(), score, 1));
        score -= 1.0;
    }
    pieces
}

pub(in super::super) fn sentence_piece(
    more: &[(&'static str, Encoded)],
) -> Vec<(&'static str, Encoded)> {
    let pieces = scored();
    let mut keys = vec![
        ("model", string("llama")),
        (
            "tokens",
            strings(pieces.iter().map(|(piece, ..)| piece.as_str())),
        ),
        ("scores", f32s(pieces.iter().map(|(_, score, _)| *score))),
        ("token_type", i32s(pieces.iter().map(|(.., kind)| *kind))),
        ("bos_token_id", u32(1)),
        ("eos_token_id", u32(2)),
    ];
    for (key, value) in more {
        keys.retain(|(other, _)| other != key);
        keys.push((key, value.clone()));
    }
    keys
}

/// What `SentencePiece` makes of a text: again and again the neighbours with the highest score are
/// joined, the leftmost of several; then bytes stand for what is no piece.
fn joined_by_score(text: &str) -> Vec<String> {
    let pieces = scored();
    let score = |text: &str| {
        let found = pieces
            .iter()
            .find(|(piece, _, kind)| piece == text && *kind == 1);
        found.map(|(_, score, _)| *score)
    };
    let text = format!("\u{2581}{}", text.replace(' ', "\u{2581}"));
    let mut parts: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let pairs = parts.windows(2).map(|pair| score(&pair.concat()));
        let mut best: Option<(usize, f32)> = None;
        for (index, score) in pairs.enumerate() {
            if let Some(score) = score
                && best.is_none_or(|(_, highest)| score > highest)
            {
                best = Some((index, score));
            }
        }
        let Some((index, _)) = best else {
            break;
        };
        let right = parts.remove(index + 1);
        parts[index] += &right;
    }
    let bytes = |part: String| match score(&part) {
        Some(_) => vec![part],
        None => part.bytes().map(|byte| format!("<0x{byte:02X}>")).collect(),
    };
    parts.into_iter().flat_map(bytes).collect()
}

#[test]
fn sentence_piece_joins_by_score() {
    let tokenizer = tokenizer(&sentence_piece(&[]));
    assert_eq!(pieces(&tokenizer, "abc"), ["\u{2581}abc"]);
    assert_eq!(pieces(&tokenizer, "x"), ["\u{2581}", "<0x78>"]);
    let mut state = 1u32;
    let mut characters = std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ['a', 'b', 'c', ' ', 'a', 'b', '\u{e9}', '\u{1F980}'][(state >> 29) as usize]
    });
    for length in 1..200 {
        let text: String = characters.by_ref().take(length).collect();
        assert_eq!(
            pieces(&tokenizer, &text),
            joined_by_score(&text),
            "{text:?}"
        );
        let ids = tokenizer.encode(&text, true).unwrap();
        assert_eq!(ids[0], 1);
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    }
    assert!(pieces(&tokenizer, "").is_empty());
    // Control tokens in a text are found, and are not made of pieces otherwise.
    assert_eq!(pieces(&tokenizer, "a</s>"), ["\u{2581}a", "</s>"]);
    let as_text = tokenizer.encode_as_text("</s>").unwrap();
    assert!(!as_text.contains(&2), "{as_text:?}");
}

#[test]
fn a_text_need_not_begin_with_a_space() {
    let tokenizer = tokenizer(&sentence_piece(&[("add_space_prefix", bool(false))]));
    assert_eq!(pieces(&tokenizer, "abc a"), ["abc", "\u{2581}a"]);
    let ids = tokenizer.encode(" abc", true).unwrap();
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), " abc");
}

#[test]
fn pieces_that_make_no_vocabulary_are_named() {
    let long = "a".repeat(513);
    let mut tokens: Vec<_> = scored().into_iter().map(|(piece, ..)| piece).collect();
    let count = tokens.len();
    *tokens.last_mut().unwrap() = long;
    let longer = strings(tokens.iter().map(String::as_str));
    for (key, value, found) in [
        (
            "scores",
            f32s([1.0]),
            format!("expected a list of {count} finite numbers"),
        ),
        (
            "scores",
            f32s(vec![f32::NAN; count]),
            "expected a list".to_owned(),
        ),
        (
            "tokens",
            longer,
            "pieces of at most 512 bytes (one has 513)".to_owned(),
        ),
        (
            "unknown_token_id",
            u32(5000),
            "`tokenizer.ggml.unknown_token_id` is 5000".to_owned(),
        ),
        (
            "bos_token_id",
            u32(5000),
            "`tokenizer.ggml.bos_token_id` is 5000".to_owned(),
        ),
    ] {
        let error = read(&file(&sentence_piece(&[(key, value)]))).unwrap_err();
        assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
        assert!(error.to_string().contains(&found), "{error}");
    }
}

/// Of letters in a row, every way to split a piece leaves two other pieces.
#[test]
fn more_ways_to_join_pieces_than_are_believed() {
    let longest = 160;
    let pieces = (0..longest).flat_map(|a| (0..longest - a).map(move |b| (a, b)));
    let pieces: Vec<_> = pieces
        .filter(|lengths| *lengths != (0, 0))
        .map(|(a, b)| "a".repeat(a) + &"b".repeat(b))
        .collect();
    let more = [
        ("tokens", strings(pieces.iter().map(String::as_str))),
        ("scores", f32s(pieces.iter().map(|_| 0.0))),
        ("token_type", i32s(pieces.iter().map(|_| 1))),
    ];
    let error = read(&file(&sentence_piece(&more))).unwrap_err();
    assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
    let expected = "expected pieces with at most 1048576 ways to join two into another";
    assert!(error.to_string().contains(expected), "{error}");
}
