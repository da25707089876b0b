//! The files of a model's tokenizer and chat template, for a model that was not loaded from such files.

use super::atomic::Staged;
use super::peft::pretty;
use crate::error::Result;
use crate::models::Model;
use serde_json::{Map, Value, json};

/// Writes what transformers needs beside configuration and weights to use the model with text.
pub(super) fn write_text_files(model: &Model, staged: &Staged) -> Result<()> {
    let mut settings = Map::new();
    if let Some(template) = model.uncompiled_chat_template() {
        staged.write("chat_template.jinja", template.source().as_bytes())?;
        if let Some(source) = template.tool_use_source() {
            let name = "additional_chat_templates/tool_use.jinja";
            staged.write(name, source.as_bytes())?;
        }
        settings.clone_from(template.special_tokens());
    }
    if let Ok(tokenizer) = model.tokenizer() {
        staged.write("tokenizer.json", &pretty(&tokenizer.to_json()?))?;
        let config = model.config();
        for (key, id) in [
            ("bos_token", config.bos_token_id),
            ("eos_token", model.eos_token_ids().first().copied()),
            ("pad_token", config.pad_token_id),
        ] {
            if let Some(token) = id.and_then(|id| tokenizer.id_to_token(id)) {
                settings.entry(key).or_insert(Value::from(token));
            }
        }
        settings.insert(
            "tokenizer_class".to_owned(),
            Value::from("PreTrainedTokenizerFast"),
        );
        staged.write("tokenizer_config.json", &pretty(&Value::Object(settings)))?;
    }
    let mut generation = json!({"eos_token_id": model.eos_token_ids()});
    for (key, id) in [
        ("bos_token_id", model.config().bos_token_id),
        ("pad_token_id", model.config().pad_token_id),
    ] {
        if let Some(id) = id {
            generation[key] = Value::from(id);
        }
    }
    staged.write("generation_config.json", &pretty(&generation))
}
