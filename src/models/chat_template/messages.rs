//! The messages of a conversation: their shape, and the last one left open.

use super::{invalid, template_error};
use crate::error::Result;
use serde_json::{Map, Value};

/// Names that a message's reasoning goes under, the one that templates read first.
const REASONING_FIELDS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Marks the end of the message to continue, as transformers does.
const CONTINUE_TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// The messages as the template sees them.
pub(super) fn checked(messages: &Value) -> Result<Vec<Value>> {
    let list = messages
        .as_array()
        .filter(|list| !list.is_empty())
        .ok_or_else(|| invalid("messages", Some(messages), "a list of at least one message"))?;
    list.iter().enumerate().map(checked_message).collect()
}

fn checked_message((index, message): (usize, &Value)) -> Result<Value> {
    let what = format!("messages[{index}]");
    let fields = message
        .as_object()
        .ok_or_else(|| invalid(&what, Some(message), "an object"))?;
    let fields = fields.iter().filter(|(_, value)| !value.is_null());
    let mut fields: Map<_, _> = fields.map(|(k, v)| (k.clone(), v.clone())).collect();
    if !matches!(fields.get("role"), Some(Value::String(_))) {
        return Err(invalid(
            &format!("{what}.role"),
            message.get("role"),
            "a string",
        ));
    }
    match fields.get("content") {
        None | Some(Value::String(_)) => {}
        content => check_objects(&format!("{what}.content"), content)?,
    }
    check_objects(&format!("{what}.tool_calls"), fields.get("tool_calls"))?;
    let reasoning = REASONING_FIELDS.iter().find_map(|name| fields.get(*name));
    if let Some(reasoning) = reasoning.cloned() {
        fields
            .entry("thinking")
            .or_insert_with(|| reasoning.clone());
        fields.insert("reasoning_content".to_owned(), reasoning);
    }
    Ok(Value::Object(fields))
}

/// Checks that a value, if there is one, is a list of objects.
pub(super) fn check_objects(what: &str, value: Option<&Value>) -> Result<()> {
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return Ok(());
    };
    let list = value
        .as_array()
        .ok_or_else(|| invalid(what, Some(value), "a list of objects"))?;
    match list.iter().position(|item| !item.is_object()) {
        None => Ok(()),
        Some(at) => Err(invalid(&format!("{what}[{at}]"), list.get(at), "an object")),
    }
}

/// Appends the tag to the last message and gives the message's own text.
pub(super) fn mark_last(messages: &mut [Value]) -> Result<String> {
    let index = messages.len() - 1;
    let missing = || {
        template_error(format!(
            "`messages[{index}].content` has no text to continue; expected some with \
             `continue_final_message`"
        ))
    };
    let text = match &mut messages[index]["content"] {
        Value::Array(parts) => parts
            .iter_mut()
            .rev()
            .find_map(|part| part.get_mut("text"))
            .ok_or_else(missing)?,
        content => content,
    };
    let Value::String(text) = text else {
        return Err(missing());
    };
    let content = text.clone();
    text.push_str(CONTINUE_TAG);
    Ok(content)
}

/// The text up to the end of the message that the tag ends.
pub(super) fn cut_last(text: &str, content: &str) -> Result<String> {
    let tag = CONTINUE_TAG.trim_end();
    match text.rfind(tag) {
        Some(end) if text.contains(content.trim()) => {
            Ok(if text[end..].starts_with(CONTINUE_TAG) {
                text[..end].to_owned()
            } else {
                // The template strips messages, and so does the text to continue.
                text[..end].trim_end().to_owned()
            })
        }
        _ => Err(template_error(
            "the template does not write the last message as it is; \
             `continue_final_message` needs one that does"
                .to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ChatOptions, ChatTemplate};
    use super::*;
    use serde_json::json;

    const ROLES: &str = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}";

    fn render(source: &str, messages: &Value, options: &Value) -> Result<String> {
        let options = ChatOptions::from_json(options)?;
        ChatTemplate::new(source)?.render(messages, &options)
    }

    #[test]
    fn a_message_of_another_shape_is_named() {
        let user = json!({"role": "user", "content": "x"});
        for (messages, expected) in [
            (
                json!([]),
                "`messages` is []; expected a list of at least one message",
            ),
            (json!("x"), "`messages` is \"x\""),
            (json!([user, 5]), "`messages[1]` is 5; expected an object"),
            (
                json!([user, {"content": "x"}]),
                "`messages[1].role` is missing; expected a string",
            ),
            (json!([{"role": null}]), "`messages[0].role` is null"),
            (
                json!([{"role": "user", "content": 5}]),
                "`messages[0].content` is 5",
            ),
            (
                json!([{"role": "user", "content": ["x"]}]),
                "`messages[0].content[0]` is \"x\"",
            ),
            (
                json!([{"role": "assistant", "tool_calls": {"name": "f"}}]),
                "`messages[0].tool_calls` is {\"name\":\"f\"}; expected a list of objects",
            ),
        ] {
            let error = render(ROLES, &messages, &json!({}))
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn null_keys_are_absent_and_reasoning_has_one_name() {
        let source = "{% for m in messages %}{{ m.content is defined }} {{ m.reasoning_content }} \
                      {{ m.thinking }}{% endfor %}";
        let messages = json!([{"role": "assistant", "content": null, "reasoning": "r"}]);
        let text = render(source, &messages, &json!({})).unwrap();
        assert_eq!(text, "False r r");
    }

    #[test]
    fn the_last_message_can_be_left_open() {
        let continued = json!({"continue_final_message": true});
        let source = "{% for m in messages %}[{{ m.content }}]{% endfor %}\
                      {% if add_generation_prompt %}>{% endif %}";
        let messages =
            json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b "}]);
        assert_eq!(render(source, &messages, &json!({})).unwrap(), "[a][b ]>");
        assert_eq!(render(source, &messages, &continued).unwrap(), "[a][b ");
        let stripping = source.replace("m.content", "m.content | trim");
        assert_eq!(render(&stripping, &messages, &continued).unwrap(), "[a][b");
        let parts = json!([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}]}]);
        let listing = "{% for p in messages[0].content %}{{ p.text }}{{ p.type }}{% endfor %}";
        assert_eq!(render(listing, &parts, &continued).unwrap(), "a");
        let error = render("x", &messages, &continued).unwrap_err().to_string();
        assert!(error.contains("`continue_final_message` needs"), "{error}");
        let error = render(source, &json!([{"role": "user"}]), &continued).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("`messages[0].content` has no text"),
            "{error}"
        );
    }
}
