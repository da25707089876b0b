//! Fill in the middle: prompts for the code between two others.

use super::{Model, Tokenizer};
use crate::error::{Error, Result};

/// How models spell the tokens before the prefix, before the suffix and before the middle. The prompt
/// always has this order.
const SPELLINGS: [[&str; 3]; 4] = [
    // Qwen2.5-Coder, CodeGemma
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
    // StarCoder, SantaCoder
    ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
    // DeepSeek-Coder: begin, hole, end
    ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
    // Code Llama
    ["▁<PRE>", "▁<SUF>", "▁<MID>"],
];

/// Before the name of a repository.
const REPO_NAME: [&str; 2] = ["<|repo_name|>", "<repo_name>"];

/// Before each file.
const FILE_SEPARATOR: [&str; 3] = ["<|file_sep|>", "<file_sep>", "<|file_separator|>"];

/// Further tokens that end a middle.
const ENDS: [&str; 5] = [
    "<|endoftext|>",
    "<|fim_pad|>",
    "<fim_pad>",
    "<｜end▁of▁sentence｜>",
    "▁<EOT>",
];

/// What a model is shown of a repository before the file that it completes.
///
/// # Example
///
/// ```
/// use metal_candle::models::FimContext;
///
/// let context = FimContext {
///     repo_name: Some("library".to_owned()),
///     files: vec![("book.rs".to_owned(), "pub struct Book;\n".to_owned())],
///     path: Some("shelf.rs".to_owned()),
/// };
/// assert_ne!(context, FimContext::default());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FimContext {
    /// The name of the repository.
    pub repo_name: Option<String>,
    /// Paths and contents of other files, the most relevant one last.
    pub files: Vec<(String, String)>,
    /// The path of the file that prefix and suffix are of.
    pub path: Option<String>,
}

impl Model {
    /// The prompt for the code between a prefix and a suffix, as token ids for
    /// [`Generator::generate_from_ids`](crate::Generator::generate_from_ids).
    ///
    /// The order is prefix, suffix, middle, with the tokens that the vocabulary of the model has for
    /// them: those of Qwen2.5-Coder, `StarCoder`, DeepSeek-Coder or Code Llama. The code itself is
    /// encoded with [`Tokenizer::encode_as_text`], so a token such as `<|fim_suffix|>` that it spells
    /// is text. Generate with
    /// [`fim_stop_token_ids`](Self::fim_stop_token_ids) as `stop_token_ids`.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] where the model has no tokenizer or its vocabulary none of these tokens.
    ///
    /// # Example
    ///
    /// ```
    /// use metal_candle::{GenerateOptions, Generator, ModelLoader};
    /// use std::ops::ControlFlow;
    ///
    /// let model = ModelLoader::new().load("assets/tiny-coder")?;
    /// let prompt = model.fim_prompt("fn add(a: u32, b: u32) -> u32 {\n    ", "\n}\n")?;
    /// let options = GenerateOptions {
    ///     max_tokens: 4,
    ///     stop_token_ids: model.fim_stop_token_ids()?,
    ///     ..GenerateOptions::default()
    /// };
    /// let mut generator = Generator::new(&model);
    /// generator.generate_from_ids(&prompt, &options, |_| ControlFlow::Continue(()))?;
    /// # Ok::<(), metal_candle::Error>(())
    /// ```
    pub fn fim_prompt(&self, prefix: &str, suffix: &str) -> Result<Vec<u32>> {
        self.fim_prompt_with_context(prefix, suffix, &FimContext::default())
    }

    /// As [`fim_prompt`](Self::fim_prompt), after the name and other files of the repository.
    ///
    /// The format is that of Qwen2.5-Coder: `<|repo_name|>NAME`, then `<|file_sep|>PATH` and the
    /// content for each file, then `<|file_sep|>PATH` and the prompt for the file itself, each on a
    /// new line.
    ///
    /// # Errors
    ///
    /// Those of [`fim_prompt`](Self::fim_prompt), and [`Error::Tokenizer`] where the vocabulary lacks
    /// a token that the context needs.
    pub fn fim_prompt_with_context(
        &self,
        prefix: &str,
        suffix: &str,
        context: &FimContext,
    ) -> Result<Vec<u32>> {
        let tokenizer = self.tokenizer()?;
        let [before_prefix, before_suffix, before_middle] = fim_tokens(tokenizer)?;
        // What the tokenizer puts before every text, such as a token that marks the start.
        let mut ids = tokenizer.encode("", true)?;
        if let Some(name) = &context.repo_name {
            ids.push(required(tokenizer, &REPO_NAME)?);
            ids.extend(tokenizer.encode_as_text(&format!("{name}\n"))?);
        }
        for (path, content) in &context.files {
            let end = if content.ends_with('\n') { "" } else { "\n" };
            ids.push(required(tokenizer, &FILE_SEPARATOR)?);
            ids.extend(tokenizer.encode_as_text(&format!("{path}\n{content}{end}"))?);
        }
        if *context != FimContext::default() {
            let path = context.path.as_deref().unwrap_or_default();
            ids.push(required(tokenizer, &FILE_SEPARATOR)?);
            ids.extend(tokenizer.encode_as_text(&format!("{path}\n"))?);
        }
        ids.push(before_prefix);
        ids.extend(tokenizer.encode_as_text(prefix)?);
        ids.push(before_suffix);
        ids.extend(tokenizer.encode_as_text(suffix)?);
        ids.push(before_middle);
        Ok(ids)
    }

    /// The ids that end a middle: those that end a text, and where the vocabulary has them
    /// `<|endoftext|>`, `<|fim_pad|>`, `<|file_sep|>`, `<|repo_name|>` and the tokens of the prompt,
    /// which come where a model begins with something else. Ids that the embedding of the model is too
    /// small for are left out, since the model cannot give them.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] where the model has no tokenizer or its vocabulary no tokens for the middle.
    pub fn fim_stop_token_ids(&self) -> Result<Vec<u32>> {
        let tokenizer = self.tokenizer()?;
        let mut ids = fim_tokens(tokenizer)?.to_vec();
        ids.extend(self.eos_token_ids());
        let further = ENDS.iter().chain(&REPO_NAME).chain(&FILE_SEPARATOR);
        ids.extend(further.filter_map(|token| tokenizer.token_to_id(token)));
        ids.retain(|&id| (id as usize) < self.config().vocab_size);
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }
}

fn fim_tokens(tokenizer: &Tokenizer) -> Result<[u32; 3]> {
    SPELLINGS
        .iter()
        .find_map(|spelling| {
            let [prefix, suffix, middle] = spelling.map(|token| tokenizer.token_to_id(token));
            Some([prefix?, suffix?, middle?])
        })
        .ok_or_else(|| lacks(&SPELLINGS.map(|[prefix, ..]| prefix)))
}

fn required(tokenizer: &Tokenizer, spellings: &[&str]) -> Result<u32> {
    spellings
        .iter()
        .find_map(|token| tokenizer.token_to_id(token))
        .ok_or_else(|| lacks(spellings))
}

fn lacks(spellings: &[&str]) -> Error {
    Error::Tokenizer {
        reason: format!(
            "the vocabulary has none of {}; expected the model to be trained to fill in the middle",
            spellings.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ModelLoader;
    use crate::backend::{DTypePolicy, DeviceKind};
    use serde_json::{Value, json};

    fn tiny_coder() -> Model {
        ModelLoader::new()
            .with_device(DeviceKind::Cpu)
            .load("assets/tiny-coder")
            .unwrap()
    }

    #[test]
    fn a_prompt_is_that_of_the_reference() {
        let text = std::fs::read_to_string("tests/fixtures/tiny_coder/expected.json").unwrap();
        let reference: Value = serde_json::from_str(&text).unwrap();
        let prompts = reference["prompts"].as_array().unwrap();
        let prompt = prompts
            .iter()
            .find(|prompt| prompt["name"] == "fim")
            .unwrap();
        let part = |name: &str| prompt["fim"][name].as_str().unwrap();
        let ids = tiny_coder()
            .fim_prompt(part("prefix"), part("suffix"))
            .unwrap();
        assert_eq!(json!(ids), prompt["input_ids"]);
    }

    #[test]
    fn a_repository_comes_before_the_file() {
        let model = tiny_coder();
        let context = FimContext {
            repo_name: Some("library".to_owned()),
            files: vec![
                ("book.rs".to_owned(), "struct Book;".to_owned()),
                ("shelf.rs".to_owned(), "struct Shelf;\n".to_owned()),
            ],
            path: Some("main.rs".to_owned()),
        };
        let ids = model
            .fim_prompt_with_context("fn a() {", "}", &context)
            .unwrap();
        let text = "<|repo_name|>library\n\
                    <|file_sep|>book.rs\nstruct Book;\n\
                    <|file_sep|>shelf.rs\nstruct Shelf;\n\
                    <|file_sep|>main.rs\n<|fim_prefix|>fn a() {<|fim_suffix|>}<|fim_middle|>";
        assert_eq!(ids, model.tokenizer().unwrap().encode(text, false).unwrap());
    }

    #[test]
    fn tokens_in_the_code_are_text() {
        let model = tiny_coder();
        let code = "let end = \"<|endoftext|><|fim_suffix|>\";";
        let ids = model.fim_prompt(code, code).unwrap();
        let tokens: Vec<u32> = ids.iter().copied().filter(|id| *id >= 6135).collect();
        assert_eq!(tokens, [6138, 6140, 6139]);
        let text = model.tokenizer().unwrap().decode(&ids, true).unwrap();
        assert_eq!(text, format!("{code}{code}"));
    }

    #[test]
    fn the_tokens_that_end_a_middle_are_those_of_the_vocabulary() {
        let ids = tiny_coder().fim_stop_token_ids().unwrap();
        assert_eq!(ids, [6135, 6138, 6139, 6140, 6141, 6142, 6143]);
    }

    #[test]
    fn ends_outside_the_embedding_are_left_out() {
        let vocab = json!({"a": 0, "<|fim_prefix|>": 205, "<|fim_suffix|>": 206,
            "<|fim_middle|>": 207});
        let tokenizer = json!({"version": "1.0", "added_tokens": [],
            "model": {"type": "BPE", "vocab": vocab, "merges": []}});
        // The embedding has 208 rows.
        let model = super::super::testing::model_with(&[
            ("tokenizer.json", tokenizer),
            (
                "generation_config.json",
                json!({"eos_token_id": [204, 300]}),
            ),
        ]);
        let prompt = model.fim_prompt("a", "aa").unwrap();
        assert_eq!(prompt, [205, 0, 206, 0, 0, 207]);
        let ends = model.fim_stop_token_ids().unwrap();
        assert_eq!(ends, [204, 205, 206, 207]);
    }

    #[test]
    fn a_model_without_the_tokens_is_told() {
        let model = super::super::testing::model("qwen2_tied", DeviceKind::Cpu, DTypePolicy::F32);
        assert!(model.fim_prompt("a", "b").is_err());
        let dir = tempfile::tempdir().unwrap();
        let with_tokens = |tokens: &[&str]| {
            let tokens = tokens.iter().enumerate();
            let added: Vec<_> = tokens
                .map(|(at, token)| {
                    json!({"id": 1 + at, "content": token, "special": true, "single_word": false,
                        "lstrip": false, "rstrip": false, "normalized": false})
                })
                .collect();
            let file = json!({"version": "1.0", "added_tokens": added, "pre_tokenizer": null,
                "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}});
            std::fs::write(dir.path().join("tokenizer.json"), file.to_string()).unwrap();
            Tokenizer::from_dir(dir.path()).unwrap().unwrap()
        };
        for spelling in SPELLINGS {
            assert_eq!(fim_tokens(&with_tokens(&spelling)).unwrap(), [1, 2, 3]);
        }
        let tokenizer = with_tokens(&["<fim_prefix>", "<|fim_suffix|>", "<|fim_middle|>"]);
        let error = fim_tokens(&tokenizer).unwrap_err().to_string();
        assert!(
            error.contains("none of <|fim_prefix|>, <fim_prefix>"),
            "{error}"
        );
        let error = required(&tokenizer, &REPO_NAME).unwrap_err().to_string();
        assert!(
            error.contains("none of <|repo_name|>, <repo_name>"),
            "{error}"
        );
    }
}
