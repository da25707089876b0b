//! Settings that are chosen by a name: `"sgd"`, or `{"name": "sgd", "momentum": 0.9}`.

use serde::{Deserialize, Deserializer, de::Error};
use serde_json::{Value, json};

/// Reads either form of JSON as the object.
pub(super) fn object<'de, D: Deserializer<'de>>(from: D) -> Result<Value, D::Error> {
    match Value::deserialize(from)? {
        Value::String(name) => Ok(json!({ "name": name })),
        object @ Value::Object(_) => Ok(object),
        other => Err(D::Error::custom(format!(
            "{other} is neither a name nor an object with a `name`"
        ))),
    }
}
