//! How a byte-level tokenizer cuts text into words, by the name that llama.cpp has for it.

use serde_json::Value;

/// Between the words of Qwen2 and Qwen3: every digit stands by itself.
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// Llama 3: up to three digits are a word.
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// Mistral's later models: a capital begins a word.
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// One cut of a text, after which the pieces are cut by the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step<'a> {
    /// What the expression matches, and what lies between.
    Split(&'a str),
    /// Every digit by itself.
    Digits,
    /// The words of GPT-2.
    Words,
}

/// A name of llama.cpp's, the steps behind it, and whether a word that is a token is this token,
/// whatever its merges would make of it.
type Known = (&'static str, &'static [Step<'static>], bool);

const KNOWN: [Known; 6] = [
    ("qwen2", &[Step::Split(QWEN2)], false),
    ("llama-bpe", &[Step::Split(LLAMA3)], true),
    ("smaug-bpe", &[Step::Split(LLAMA3)], false),
    ("tekken", &[Step::Split(TEKKEN)], true),
    ("smollm", &[Step::Digits, Step::Words], false),
    ("gpt-2", &[Step::Words], false),
];

/// The name of the pre-tokenizer of a `tokenizer.json`, if it is one that llama.cpp has.
pub(super) fn name(tokenizer: &Value) -> Option<&'static str> {
    let steps = steps(&tokenizer["pre_tokenizer"])?;
    let ignores_merges = tokenizer["model"]["ignore_merges"] == true;
    let known = KNOWN
        .iter()
        .find(|(_, known, ignores)| *known == steps.as_slice() && *ignores == ignores_merges);
    known.map(|(name, ..)| *name)
}

/// The names that [`name`] can give.
pub(super) fn known() -> String {
    KNOWN.map(|(name, ..)| name).join(", ")
}

/// The steps of a byte-level pre-tokenizer; none for one of another kind.
fn steps(pre_tokenizer: &Value) -> Option<Vec<Step<'_>>> {
    let all = match pre_tokenizer["pretokenizers"].as_array() {
        Some(list) if pre_tokenizer["type"] == "Sequence" => list.as_slice(),
        _ => std::slice::from_ref(pre_tokenizer),
    };
    // The last step writes bytes as characters, and may split into words before.
    let (bytes, before) = all.split_last()?;
    let mut steps = before.iter().map(step).collect::<Option<Vec<_>>>()?;
    if bytes["type"] != "ByteLevel" || bytes["add_prefix_space"] != false {
        return None;
    }
    if bytes["use_regex"] != false {
        steps.push(Step::Words);
    }
    Some(steps)
}

fn step(step: &Value) -> Option<Step<'_>> {
    match step["type"].as_str()? {
        "Split" if step["behavior"] == "Isolated" && step["invert"] == false => {
            Some(Step::Split(step["pattern"]["Regex"].as_str()?))
        }
        "Digits" if step["individual_digits"] == true => Some(Step::Digits),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn named(pre_tokenizer: &Value, ignore_merges: bool) -> Option<&'static str> {
        let model = json!({"ignore_merges": ignore_merges});
        name(&json!({"pre_tokenizer": pre_tokenizer, "model": model}))
    }

    fn split(regex: &str) -> Value {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                "use_regex": false}]})
    }

    #[test]
    fn known_ones_have_names() {
        let words = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": true});
        let smollm = json!({"type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": true}, words]});
        assert_eq!(named(&split(QWEN2), false), Some("qwen2"));
        assert_eq!(named(&split(LLAMA3), true), Some("llama-bpe"));
        assert_eq!(named(&split(LLAMA3), false), Some("smaug-bpe"));
        assert_eq!(named(&split(TEKKEN), true), Some("tekken"));
        assert_eq!(named(&smollm, false), Some("smollm"));
        assert_eq!(named(&words, false), Some("gpt-2"));
    }

    #[test]
    fn others_have_none() {
        // A word that is a token is looked up first, which llama.cpp does not do for Qwen2.
        assert_eq!(named(&split(QWEN2), true), None);
        assert_eq!(named(&split(r"\s+"), false), None);
        let mut removed = split(QWEN2);
        removed["pretokenizers"][0]["behavior"] = json!("Removed");
        assert_eq!(named(&removed, false), None);
        let mut spaced = split(QWEN2);
        spaced["pretokenizers"][1]["add_prefix_space"] = json!(true);
        assert_eq!(named(&spaced, false), None);
        for other in [
            json!(null),
            json!({"type": "Whitespace"}),
            json!({"type": "Sequence", "pretokenizers": []}),
            json!({"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}]}),
        ] {
            assert_eq!(named(&other, false), None);
        }
    }
}
