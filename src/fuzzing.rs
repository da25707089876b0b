//! What the fuzzer calls: readers of files that may come from anywhere, each given the bytes of one.
//!
//! The bytes are anything; a reader answers with an error or a result, in time and memory that the
//! length of the bytes bounds. Only builds of the fuzzer and of tests have this module.

use crate::models::{ChatOptions, ChatTemplate, ModelConfig, pytorch, safetensors};
use serde_json::json;
use std::path::Path;

/// A reader, by the name of its target.
type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("safetensors", read_safetensors),
    ("pickle", read_pickle),
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
        let messages = json!([
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello!"},
            {"role": "assistant", "content": "Hi."},
            {"role": "user", "content": "Tell me more."},
        ]);
        let _ = template.render(&messages, &ChatOptions::default());
    }
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
