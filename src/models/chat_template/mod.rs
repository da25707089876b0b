//! Chat templates: the text that a model expects for a conversation.

mod engine;
mod functions;
mod messages;
mod options;
mod python;

pub use options::ChatOptions;

use crate::error::{Error, Result};
use crate::models::json::{self, Object, quote};
use minijinja::Environment;
use once_cell::sync::OnceCell;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The chat template of a model: a Jinja program that writes a conversation as one text.
///
/// It renders as transformers 5 does: the same functions and filters, JSON as Python writes it, the
/// special tokens of `tokenizer_config.json` as variables. Of a message, keys that are `null` count
/// as absent, and reasoning given as `thinking` or `reasoning` is `reasoning_content` too.
///
/// # Special tokens
///
/// The text holds special tokens such as `<|im_start|>` in writing, and so it is to be encoded with
/// [`Tokenizer::encode`](super::Tokenizer::encode), without adding any. As in transformers by
/// default, special tokens that a message spells become special tokens as well: whoever writes a
/// message can end it and start another. Remove them from text that is not trusted.
///
/// # Bounds
///
/// A template comes with a model and is not trusted. It reads nothing but its variables. The steps
/// that it takes, the bytes that it writes and how deep it nests are bounded, in proportion to the
/// messages; beyond, rendering fails with an error. Not bounded is the time to compare lists that
/// a template nests in themselves, and the memory for the text of such a list made with `~`.
///
/// # Example
///
/// ```
/// use metal_candle::models::{ChatOptions, ChatTemplate};
/// use serde_json::json;
///
/// let template = ChatTemplate::new(
///     "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}",
/// )?;
/// let messages = json!([{"role": "user", "content": "Hello"}]);
/// assert_eq!(template.render(&messages, &ChatOptions::default())?, "user: Hello\n");
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug)]
pub struct ChatTemplate {
    /// The file it comes from.
    path: Option<PathBuf>,
    default: Compiled,
    /// For conversations with tools, where the model has another one for these.
    tool_use: Option<Compiled>,
    /// `bos_token`, `eos_token` and so on.
    special_tokens: Map<String, Value>,
}

#[derive(Debug)]
struct Compiled {
    source: String,
    environment: OnceCell<Environment<'static>>,
}

impl ChatTemplate {
    /// A template given as text, without special tokens.
    ///
    /// # Errors
    ///
    /// [`Error::ChatTemplate`] where the text is no Jinja template, or has more than 128 KiB.
    pub fn new(source: &str) -> Result<Self> {
        let template = Self {
            path: None,
            default: Compiled::new(source),
            tool_use: None,
            special_tokens: Map::new(),
        };
        template.compile()?;
        Ok(template)
    }

    /// Reads the template of a model directory: `chat_template.jinja`, else the key `chat_template`
    /// of `tokenizer_config.json`; `None` where there is neither.
    ///
    /// The key holds a template, or a list of `{"name", "template"}` of which `default` is used, and
    /// `tool_use` where tools are given; next to `chat_template.jinja` that one is
    /// `additional_chat_templates/tool_use.jinja`. What is read here is compiled when it is first
    /// rendered, so that a template this library cannot run does not keep a model from loading.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidFormat`] and [`Error::InvalidConfig`] where a file is malformed or longer
    /// than 128 KiB, and [`Error::Io`] where it cannot be read.
    pub fn from_dir(dir: &Path) -> Result<Option<Self>> {
        let config_path = dir.join("tokenizer_config.json");
        let config = json::read_if_exists(&config_path, "the settings of the tokenizer")?;
        let config = config
            .as_ref()
            .map(|value| Object::new(value, &config_path))
            .transpose()?;
        let path = dir.join("chat_template.jinja");
        let (path, default, tool_use) = if let Some(default) = read_source(&path)? {
            let tool_use = read_source(&dir.join("additional_chat_templates/tool_use.jinja"))?;
            (path, default, tool_use)
        } else {
            let Some((default, tool_use)) = config.as_ref().map(sources).transpose()?.flatten()
            else {
                return Ok(None);
            };
            (config_path.clone(), default, tool_use)
        };
        Ok(Some(Self {
            path: Some(path),
            default: Compiled::new(&default),
            tool_use: tool_use.map(|source| Compiled::new(&source)),
            special_tokens: config.as_ref().map(special_tokens).unwrap_or_default(),
        }))
    }

    /// The template that a model file holds, and the one for conversations with tools where it has one.
    ///
    /// As those of a directory they are compiled when they are first rendered.
    pub(crate) fn from_file(
        path: &Path,
        default: &str,
        tool_use: Option<&str>,
        special_tokens: Map<String, Value>,
    ) -> Self {
        Self {
            path: Some(path.to_owned()),
            default: Compiled::new(default),
            tool_use: tool_use.map(Compiled::new),
            special_tokens,
        }
    }

    /// The text of the template, of the one without tools where there are two.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.default.source
    }

    /// The text of the template for conversations with tools, where there are two.
    pub(crate) fn tool_use_source(&self) -> Option<&str> {
        self.tool_use
            .as_ref()
            .map(|template| template.source.as_str())
    }

    /// The special tokens that the template may name, such as `bos_token`.
    pub(crate) fn special_tokens(&self) -> &Map<String, Value> {
        &self.special_tokens
    }

    /// Compiles the template, which rendering does where it has not been done.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidFormat`] where the file of the template is no Jinja template, and
    /// [`Error::ChatTemplate`] where there is no file.
    pub(crate) fn compile(&self) -> Result<()> {
        self.environment(&self.default)?;
        if let Some(template) = &self.tool_use {
            self.environment(template)?;
        }
        Ok(())
    }

    /// The text of a conversation.
    ///
    /// `messages` is a list of objects with a `role`, and `content`: a text, or a list of objects
    /// where the template takes parts. Further keys are the template's: `tool_calls`, a list of
    /// objects whose `arguments` are best objects and not JSON in a string; `reasoning_content`.
    ///
    /// # Errors
    ///
    /// [`Error::ChatTemplate`] with the index and key of a message that has another shape; where the
    /// template refuses the messages, with its reason; where it exceeds the bounds. And those of
    /// compiling.
    ///
    /// # Example
    ///
    /// ```
    /// use metal_candle::ModelLoader;
    /// use metal_candle::models::ChatOptions;
    /// use serde_json::json;
    ///
    /// let model = ModelLoader::new().load("assets/tiny-coder")?;
    /// let messages = json!([{"role": "user", "content": "Write a loop."}]);
    /// let prompt = model.chat_template()?.render(&messages, &ChatOptions::default())?;
    /// assert_eq!(
    ///     prompt,
    ///     "<|im_start|>user\nWrite a loop.<|im_end|>\n<|im_start|>assistant\n"
    /// );
    /// # Ok::<(), metal_candle::Error>(())
    /// ```
    pub fn render(&self, messages: &Value, options: &ChatOptions) -> Result<String> {
        let mut messages = messages::checked(messages)?;
        messages::check_objects("tools", options.tools.as_ref())?;
        messages::check_objects("documents", options.arguments.get("documents"))?;
        let continued = options
            .continue_final_message
            .then(|| messages::mark_last(&mut messages))
            .transpose()?;
        let mut variables = self.special_tokens.clone();
        for (name, value) in &options.arguments {
            if ["messages", "tools", "add_generation_prompt"].contains(&name.as_str()) {
                return Err(invalid(
                    &format!("arguments.{name}"),
                    Some(value),
                    format!("`{name}` to be given outside of the arguments"),
                ));
            }
            variables.insert(name.clone(), value.clone());
        }
        variables.entry("documents").or_insert(Value::Null);
        variables.insert("messages".to_owned(), Value::Array(messages));
        variables.insert(
            "tools".to_owned(),
            options.tools.clone().unwrap_or(Value::Null),
        );
        variables.insert(
            "add_generation_prompt".to_owned(),
            Value::Bool(options.add_generation_prompt && continued.is_none()),
        );
        let template = self
            .tool_use
            .as_ref()
            .filter(|_| options.tools.is_some())
            .unwrap_or(&self.default);
        let text =
            engine::render(self.environment(template)?, &variables).map_err(template_error)?;
        match continued {
            None => Ok(text),
            Some(content) => messages::cut_last(&text, &content),
        }
    }

    fn environment<'c>(&self, template: &'c Compiled) -> Result<&'c Environment<'static>> {
        template.environment.get_or_try_init(|| {
            engine::compile(&template.source).map_err(|reason| match &self.path {
                Some(path) => Error::format(path, reason),
                None => template_error(reason),
            })
        })
    }
}

impl Compiled {
    fn new(source: &str) -> Self {
        Self {
            source: source.to_owned(),
            environment: OnceCell::new(),
        }
    }
}

fn template_error(reason: String) -> Error {
    Error::ChatTemplate { reason }
}

fn invalid(what: &str, found: Option<&Value>, expected: impl std::fmt::Display) -> Error {
    template_error(format!("`{what}` is {}; expected {expected}", quote(found)))
}

fn read_source(path: &Path) -> Result<Option<String>> {
    let bytes = match json::read_bounded(path, "a chat template", engine::MAX_SOURCE_BYTES as u64) {
        Ok(bytes) => bytes,
        Err(Error::FileNotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|error| Error::format(path, format!("not UTF-8: {}", error.utf8_error())))
}

/// The default template and the one for tools of `tokenizer_config.json`.
fn sources(config: &Object) -> Result<Option<(String, Option<String>)>> {
    const EXPECTED: &str =
        "a template, or a list of {\"name\", \"template\"} with the name `default`";
    match config.get("chat_template") {
        None => Ok(None),
        Some(Value::String(source)) => Ok(Some((source.clone(), None))),
        Some(Value::Array(entries)) => {
            let named = |name: &str| {
                let entry = entries.iter().find(|entry| entry["name"] == name)?;
                entry["template"].as_str().map(str::to_owned)
            };
            let default = named("default").ok_or_else(|| config.invalid("chat_template", EXPECTED));
            Ok(Some((default?, named("tool_use"))))
        }
        Some(_) => Err(config.invalid("chat_template", EXPECTED)),
    }
}

/// The special tokens of `tokenizer_config.json`: strings, or objects with the string as `content`.
fn special_tokens(config: &Object) -> Map<String, Value> {
    let tokens = config
        .fields()
        .iter()
        .filter(|(key, _)| key.ends_with("_token"));
    tokens
        .filter_map(|(key, value)| {
            let token = value.as_str().or_else(|| value["content"].as_str())?;
            Some((key.clone(), Value::from(token)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(files: &[(&str, &str)]) -> Result<Option<ChatTemplate>> {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        ChatTemplate::from_dir(dir.path())
    }

    #[test]
    fn a_template_is_a_file_or_a_key_or_a_list() {
        let user = json!([{"role": "user", "content": "x"}]);
        let plain = ChatOptions::default();
        let tools = ChatOptions {
            tools: Some(json!([])),
            ..ChatOptions::default()
        };
        let list = json!({"chat_template": [{"name": "tool_use", "template": "T{{ bos_token }}"},
            {"name": "default", "template": "D{{ eos_token }}"}],
            "bos_token": {"content": "<s>"}, "eos_token": "</s>", "add_bos_token": true});
        let list = list.to_string();
        let template = read(&[("tokenizer_config.json", &list)]).unwrap().unwrap();
        assert_eq!(template.render(&user, &plain).unwrap(), "D</s>");
        assert_eq!(template.render(&user, &tools).unwrap(), "T<s>");
        let template = read(&[
            ("tokenizer_config.json", &list),
            ("chat_template.jinja", "F{{ bos_token }}"),
        ]);
        let template = template.unwrap().unwrap();
        assert_eq!(template.render(&user, &plain).unwrap(), "F<s>");
        assert_eq!(template.render(&user, &tools).unwrap(), "F<s>");
        let template = read(&[
            ("chat_template.jinja", "F"),
            ("additional_chat_templates/tool_use.jinja", "U"),
        ]);
        let template = template.unwrap().unwrap();
        assert_eq!(template.render(&user, &plain).unwrap(), "F");
        assert_eq!(template.render(&user, &tools).unwrap(), "U");
        assert!(read(&[]).unwrap().is_none());
        assert!(read(&[("tokenizer_config.json", "{}")]).unwrap().is_none());
    }

    #[test]
    fn broken_files_are_named() {
        for (files, expected) in [
            (
                [("tokenizer_config.json", r#"{"chat_template": 5}"#)],
                "tokenizer_config.json: `chat_template` is 5; expected a template",
            ),
            (
                [(
                    "tokenizer_config.json",
                    r#"{"chat_template": [{"name": "x"}]}"#,
                )],
                "with the name `default`",
            ),
            (
                [("chat_template.jinja", &"x".repeat(200_000)[..])],
                "chat_template.jinja: the file is longer than 131072 bytes",
            ),
        ] {
            let error = read(&files).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let template = read(&[("chat_template.jinja", "{% if %}")])
            .unwrap()
            .unwrap();
        let error = template.compile().unwrap_err();
        assert!(matches!(error, Error::InvalidFormat { .. }), "{error}");
        assert!(
            error.to_string().contains("chat_template.jinja: "),
            "{error}"
        );
        let error = ChatTemplate::new("{% if %}").unwrap_err();
        assert!(matches!(error, Error::ChatTemplate { .. }), "{error}");
    }

    #[test]
    fn arguments_are_variables_and_win_over_special_tokens() {
        let options = ChatOptions::from_json(&json!({"arguments": {"eos_token": "E", "n": 2}}));
        let config = r#"{"eos_token": "x", "chat_template": "{{ eos_token }}{{ n + 1 }}"}"#;
        let template = read(&[("tokenizer_config.json", config)]).unwrap().unwrap();
        let messages = json!([{"role": "user"}]);
        assert_eq!(template.render(&messages, &options.unwrap()).unwrap(), "E3");
    }
}
