//! How a conversation is rendered.

use super::invalid;
use crate::error::Result;
use serde_json::{Map, Value};

/// How a conversation is rendered.
///
/// The names are those of transformers' `apply_chat_template`. The default adds the generation
/// prompt, since the text usually is a prompt; transformers leaves it out unless asked.
///
/// # Example
///
/// ```
/// use metal_candle::models::ChatOptions;
/// use serde_json::json;
///
/// let mut options = ChatOptions::default();
/// options.arguments.insert("enable_thinking".to_owned(), json!(false));
/// assert!(options.add_generation_prompt);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ChatOptions {
    /// The tools that the model may call: a list of JSON objects, usually
    /// `{"type": "function", "function": {"name", "description", "parameters"}}`.
    pub tools: Option<Value>,
    /// Whether to end with the start of an assistant's message. Default true.
    pub add_generation_prompt: bool,
    /// Whether to leave the last message open, so that the model goes on writing it; then no
    /// generation prompt is added. Default false.
    pub continue_final_message: bool,
    /// Further variables of the template, such as `enable_thinking` or `documents`.
    pub arguments: Map<String, Value>,
}

impl Default for ChatOptions {
    fn default() -> Self {
        Self {
            tools: None,
            add_generation_prompt: true,
            continue_final_message: false,
            arguments: Map::new(),
        }
    }
}

impl ChatOptions {
    /// Reads options from a JSON object with the names of the fields as keys, all optional.
    ///
    /// # Errors
    ///
    /// [`Error::ChatTemplate`](crate::Error::ChatTemplate) for an unknown key and for a value of another type.
    ///
    /// # Example
    ///
    /// ```
    /// use metal_candle::models::ChatOptions;
    /// use serde_json::json;
    ///
    /// let options = ChatOptions::from_json(&json!({"add_generation_prompt": false}))?;
    /// assert!(!options.add_generation_prompt);
    /// # Ok::<(), metal_candle::Error>(())
    /// ```
    pub fn from_json(value: &Value) -> Result<Self> {
        let fields = value
            .as_object()
            .ok_or_else(|| invalid("options", Some(value), "an object"))?;
        let mut options = Self::default();
        for (key, value) in fields {
            let flag = || {
                value
                    .as_bool()
                    .ok_or_else(|| invalid(&format!("options.{key}"), Some(value), "true or false"))
            };
            match key.as_str() {
                "tools" => options.tools = Some(value.clone()).filter(|tools| !tools.is_null()),
                "add_generation_prompt" => options.add_generation_prompt = flag()?,
                "continue_final_message" => options.continue_final_message = flag()?,
                "arguments" => {
                    let arguments = value.as_object();
                    let arguments = arguments
                        .ok_or_else(|| invalid("options.arguments", Some(value), "an object"))?;
                    options.arguments.clone_from(arguments);
                }
                _ => {
                    return Err(invalid(
                        &format!("options.{key}"),
                        Some(value),
                        "one of the keys tools, add_generation_prompt, continue_final_message, arguments",
                    ));
                }
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ChatTemplate;
    use super::*;
    use serde_json::json;

    #[test]
    fn an_option_of_another_shape_is_named() {
        let template = ChatTemplate::new("").unwrap();
        let messages = json!([{"role": "user", "content": "x"}]);
        for (options, expected) in [
            (json!([]), "`options` is []; expected an object"),
            (
                json!({"tool": []}),
                "`options.tool` is []; expected one of the keys tools,",
            ),
            (
                json!({"add_generation_prompt": 1}),
                "`options.add_generation_prompt` is 1",
            ),
            (json!({"arguments": []}), "`options.arguments` is []"),
            (
                json!({"arguments": {"tools": []}}),
                "`arguments.tools` is []",
            ),
            (
                json!({"arguments": {"documents": "x"}}),
                "`documents` is \"x\"",
            ),
            (
                json!({"tools": {}}),
                "`tools` is {}; expected a list of objects",
            ),
            (
                json!({"tools": ["f"]}),
                "`tools[0]` is \"f\"; expected an object",
            ),
        ] {
            let error = ChatOptions::from_json(&options)
                .and_then(|options| template.render(&messages, &options))
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
