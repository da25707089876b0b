//! What the fuzzer calls: readers of files that may come from anywhere, each given the bytes of one.
//!
//! The bytes are anything; a reader answers with an error or a result, in time and memory that the
//! length of the bytes bounds. Only builds of the fuzzer and of tests have this module.

use crate::models::{ChatOptions, ChatTemplate, GgufCheckpoint, ModelConfig, pytorch, safetensors};
use serde_json::json;
use std::path::Path;

/// A reader, by the name of its target.
type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("safetensors", read_safetensors),
    ("pickle", read_pickle),
    ("gguf", read_gguf),
    ("config", read_config),
    ("chat_template", render_chat_template),
];

fn path() -> &'static Path {
    Path::new("fuzzed")
}

/// A safetensors file.
pub fn read_safetensors(bytes: &[u8]) {
    if let Ok((entries, _)) = safetensors::entries(bytes, path()) {
        for (name, entry) in entries {
            assert!(bytes.get(entry.bytes.clone()).is_some(), "{name}");
        }
    }
}

/// A file of `torch.save`, and the pickle in one.
pub fn read_pickle(bytes: &[u8]) {
    if let Ok(entries) = pytorch::entries(bytes, path()) {
        for (name, entry) in entries {
            assert!(bytes.get(entry.bytes.clone()).is_some(), "{name}");
        }
    }
    let _ = pytorch::pickle::tensors(bytes, path());
}

/// A GGUF file: what it says of the model, its tokenizer and template, and the bytes of its tensors.
pub fn read_gguf(bytes: &[u8]) {
    /// More would only repeat what these show.
    const MAX_LAYERS: usize = 8;
    let Ok(checkpoint) = GgufCheckpoint::from_bytes(bytes, path()) else {
        return;
    };
    let config = checkpoint.config();
    assert!(config.parameter_count() < usize::MAX);
    if config.num_hidden_layers <= MAX_LAYERS {
        let tensors = config.tensors();
        let valid = checkpoint.validate(&tensors).is_ok();
        for spec in tensors {
            let bytes = checkpoint.bytes(&spec.name);
            assert!(bytes.is_ok() || !valid, "{}", spec.name);
            if let Ok(bytes) = bytes {
                assert_eq!(Some(bytes.len()), checkpoint.size_in_bytes(&spec.name));
            }
        }
    }
    if let Ok(Some(tokenizer)) = checkpoint.tokenizer() {
        let _ = tokenizer.encode("Tell me more.", true);
    }
    if let Ok(Some(template)) = checkpoint.chat_template() {
        render(&template);
    }
}

/// `config.json`.
pub fn read_config(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(config) = ModelConfig::from_json(text, path())
    {
        assert!(config.parameter_count() < usize::MAX);
    }
}

/// A chat template, compiled and rendered.
pub fn render_chat_template(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(template) = ChatTemplate::new(text)
    {
        render(&template);
    }
}

fn render(template: &ChatTemplate) {
    let messages = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Tell me more."},
    ]);
    let _ = template.render(&messages, &ChatOptions::default());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the fuzzer was started with and what it found stays answered.
    #[test]
    fn seeds_are_answered() {
        for (name, target) in TARGETS {
            let folder = Path::new("fuzz/seeds").join(name);
            let mut count = 0;
            for file in std::fs::read_dir(&folder).unwrap() {
                target(&std::fs::read(file.unwrap().path()).unwrap());
                count += 1;
            }
            assert!(count >= 5, "{name} has {count} seeds");
        }
    }

    /// The others are changes of these.
    #[test]
    fn whole_gguf_seeds_are_models() {
        for name in ["byte_level", "sentence_piece"] {
            let bytes = std::fs::read(format!("fuzz/seeds/gguf/{name}.gguf")).unwrap();
            let checkpoint = GgufCheckpoint::from_bytes(&bytes, path()).unwrap();
            let tensors = checkpoint.config().tensors();
            checkpoint.validate(&tensors).unwrap();
            assert!(tensors.len() > 10);
            let tokenizer = checkpoint.tokenizer().unwrap().unwrap();
            assert!(!tokenizer.encode("abab", false).unwrap().is_empty());
            assert!(checkpoint.chat_template().unwrap().is_some());
        }
    }

    #[test]
    fn every_target_has_a_program() {
        for (name, _) in TARGETS {
            let program = Path::new("fuzz/targets").join(format!("{name}.rs"));
            assert!(program.exists(), "{}", program.display());
        }
        let programs = std::fs::read_dir("fuzz/targets").unwrap().count();
        assert_eq!(programs, TARGETS.len());
    }
}
