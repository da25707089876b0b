//! What the keys of a row are called.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The keys under which a row has its parts, for files that call them otherwise.
///
/// A part whose key a row does not have is not there, so a name that no row has also hides a part: a
/// file whose rows have both `messages` and `prompt` is read with another name for `prompt`.
///
/// # Example
///
/// ```
/// use metal_candle::training::{DatasetOptions, FieldNames};
///
/// let options = DatasetOptions {
///     fields: FieldNames {
///         prompt: "question".to_owned(),
///         completion: "answer".to_owned(),
///         ..FieldNames::default()
///     },
///     ..DatasetOptions::default()
/// };
/// options.validate()?;
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FieldNames {
    /// The key of a text to learn as it is. By default `text`.
    pub text: String,
    /// The key of what comes before a completion or a preferred answer. By default `prompt`.
    pub prompt: String,
    /// The key of the answer to a prompt. By default `completion`.
    pub completion: String,
    /// The key of a conversation. By default `messages`.
    pub messages: String,
    /// The key of the tools of a conversation. By default `tools`.
    pub tools: String,
    /// The key of the code before a middle. By default `prefix`.
    pub prefix: String,
    /// The key of the code after a middle. By default `suffix`.
    pub suffix: String,
    /// The key of the code to fill in. By default `middle`.
    pub middle: String,
    /// The key of the better of two answers. By default `chosen`.
    pub chosen: String,
    /// The key of the worse of two answers. By default `rejected`.
    pub rejected: String,
}

impl Default for FieldNames {
    fn default() -> Self {
        Self {
            text: "text".to_owned(),
            prompt: "prompt".to_owned(),
            completion: "completion".to_owned(),
            messages: "messages".to_owned(),
            tools: "tools".to_owned(),
            prefix: "prefix".to_owned(),
            suffix: "suffix".to_owned(),
            middle: "middle".to_owned(),
            chosen: "chosen".to_owned(),
            rejected: "rejected".to_owned(),
        }
    }
}

impl FieldNames {
    /// Sets the key of one part, which is given by the name of its field here.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] where there is no such field.
    ///
    /// # Example
    ///
    /// ```
    /// use metal_candle::training::FieldNames;
    ///
    /// let mut fields = FieldNames::default();
    /// fields.set("text", "content")?;
    /// assert_eq!(fields.text, "content");
    /// # Ok::<(), metal_candle::Error>(())
    /// ```
    pub fn set(&mut self, field: &str, key: &str) -> Result<()> {
        let mut names = self.named();
        let slot = names.iter_mut().find(|(name, _)| *name == field);
        let Some((_, slot)) = slot else {
            let fields = names.map(|(name, _)| name).join(", ");
            return Err(Error::option("field", field, format!("one of {fields}")));
        };
        key.clone_into(slot);
        Ok(())
    }

    /// Checks that the keys are not empty and differ.
    pub(super) fn validate(&self) -> Result<()> {
        let mut copy = self.clone();
        let mut keys = copy.named().map(|(_, key)| key.as_str());
        keys.sort_unstable();
        if keys[0].is_empty() {
            return Err(Error::option("fields", "an empty key", "keys with text"));
        }
        match keys.windows(2).find(|pair| pair[0] == pair[1]) {
            None => Ok(()),
            Some(pair) => Err(Error::option(
                "fields",
                format!("`{}` for several parts of a row", pair[0]),
                "a key of its own for each part",
            )),
        }
    }

    /// What a row may look like, for error messages.
    pub(super) fn shapes(&self) -> String {
        let Self {
            text,
            prompt,
            completion,
            messages,
            tools,
            prefix,
            suffix,
            middle,
            chosen,
            rejected,
        } = self;
        format!(
            "one of {{\"{text}\"}}, {{\"{prompt}\", \"{completion}\"}}, \
             {{\"{messages}\"[, \"{tools}\"]}}, {{\"{prefix}\", \"{suffix}\", \"{middle}\"}}, \
             {{\"{prompt}\", \"{chosen}\", \"{rejected}\"}}"
        )
    }

    fn named(&mut self) -> [(&'static str, &mut String); 10] {
        [
            ("text", &mut self.text),
            ("prompt", &mut self.prompt),
            ("completion", &mut self.completion),
            ("messages", &mut self.messages),
            ("tools", &mut self.tools),
            ("prefix", &mut self.prefix),
            ("suffix", &mut self.suffix),
            ("middle", &mut self.middle),
            ("chosen", &mut self.chosen),
            ("rejected", &mut self.rejected),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_can_be_set_and_is_named_by_its_default() {
        let mut fields = FieldNames::default();
        let names = fields.named().map(|(name, key)| {
            assert_eq!(name, key);
            name
        });
        for name in names {
            fields.set(name, &format!("my {name}")).unwrap();
        }
        assert_eq!(fields.rejected, "my rejected");
        let json = serde_json::to_value(&fields).unwrap();
        for (name, key) in json.as_object().unwrap() {
            assert_eq!(*key, format!("my {name}"));
        }
        let error = fields.set("texts", "x").unwrap_err().to_string();
        assert!(error.contains("`field` is texts; expected one of text, prompt"));
    }

    #[test]
    fn keys_must_differ() {
        FieldNames::default().validate().unwrap();
        let with_text = |key: &str| {
            let mut fields = FieldNames::default();
            fields.set("text", key).unwrap();
            fields.validate()
        };
        with_text("content").unwrap();
        let error = with_text("middle").unwrap_err().to_string();
        assert!(error.contains("`middle` for several parts"), "{error}");
        assert!(with_text("").is_err());
    }
}
