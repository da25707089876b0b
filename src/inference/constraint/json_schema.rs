//! Checking a JSON schema before the grammar library reads it.
//!
//! The library passes over keywords that it does not know, rounds large integers, and recurses as
//! deep as a schema goes. Here all of that is an error that says where.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::grammar::MAX_GRAMMAR_BYTES;

/// A result whose error says what is wrong and where.
type Result<T> = std::result::Result<T, String>;

/// The deepest nesting of a schema, that of the JSON parser.
const MAX_DEPTH: usize = 128;

/// The deepest nesting along references, in which the library recurses: that of the schema and of
/// everything that is referred to, one inside the other.
const MAX_CHAIN: usize = 5000;

/// The most properties of an object, and options of an alternative.
const MAX_PARTS: usize = 2000;

/// The most patterns for properties of an object, each of which is held against each.
const MAX_PATTERNS: usize = 32;

/// Integers up to this size are numbers of `f64`, in which the library computes.
const MAX_INTEGER: u64 = 1 << 53;

/// Keywords that constrain a value themselves.
const CONSTRAINTS: [&str; 17] = [
    "const",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "pattern",
    "required",
    "type",
];

/// Keywords with a schema for a value, or with a list of them.
const SCHEMAS: [&str; 7] = [
    "additionalItems",
    "additionalProperties",
    "allOf",
    "anyOf",
    "items",
    "oneOf",
    "prefixItems",
];

/// Keywords with an object of schemas for a value.
const SCHEMA_MAPS: [&str; 4] = ["$defs", "definitions", "patternProperties", "properties"];

/// Keywords that describe and do not constrain.
const ANNOTATIONS: [&str; 16] = [
    "$anchor",
    "$comment",
    "$id",
    "$schema",
    "contentEncoding",
    "contentMediaType",
    "default",
    "deprecated",
    "description",
    "discriminator",
    "example",
    "examples",
    "id",
    "readOnly",
    "title",
    "writeOnly",
];

/// What stands before a schema in a Lark grammar.
const EMBEDDED: &str = "%json";

/// The key under which the library takes its settings from the schema.
const SETTINGS: &str = "x-guidance";

/// The schema as the library shall compile it: checked, with our rules for white space.
///
/// The error says what is wrong and where.
pub(super) fn prepare(schema: &Value) -> Result<Value> {
    check(schema)?;
    let mut prepared = match schema {
        Value::Object(object) => object.clone(),
        Value::Bool(false) => return Err(unusable("#", "`false`, which no value meets")),
        _ => Map::new(),
    };
    // Older drafts would switch `prefixItems` off; the checks here know one draft.
    prepared.remove("$schema");
    let settings = json!({
        "whitespace_flexible": false,
        "item_separator": ", ?",
        "key_separator": ": ?",
    });
    prepared.insert(SETTINGS.to_owned(), settings);
    Ok(Value::Object(prepared))
}

/// Checks the schemas in a Lark grammar, which stand behind `%json`.
///
/// What is no JSON is left to the grammar library, which knows whether it should be some.
pub(super) fn check_embedded(lark: &str) -> Result<()> {
    for (index, _) in lark.match_indices(EMBEDDED) {
        let rest = &lark[index + EMBEDDED.len()..];
        let schema = serde_json::Deserializer::from_str(rest)
            .into_iter::<Value>()
            .next();
        if let Some(Ok(mut schema)) = schema {
            // In Lark the settings are the caller's.
            if let Some(object) = schema.as_object_mut() {
                object.remove(SETTINGS);
            }
            check(&schema)?;
        }
    }
    Ok(())
}

fn check(schema: &Value) -> Result<()> {
    let depth = check_size(schema)?;
    check_keywords(schema, depth)
}

fn unusable(path: &str, found: &str) -> String {
    format!("at `{path}` there is {found}")
}

/// Checks size and depth, and gives the depth, without recursion: a schema of a Rust program may have
/// any depth.
fn check_size(schema: &Value) -> Result<usize> {
    let (mut size, mut deepest) = (0, 0);
    let mut todo = vec![(schema, 0)];
    while let Some((value, depth)) = todo.pop() {
        deepest = deepest.max(depth);
        if depth > MAX_DEPTH {
            return Err(unusable("#", &format!("nesting deeper than {MAX_DEPTH}")));
        }
        size += match value {
            Value::String(text) => text.len() + 2,
            _ => 2,
        };
        match value {
            Value::Array(items) => todo.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(object) => {
                size += object.keys().map(|key| key.len() + 4).sum::<usize>();
                todo.extend(object.values().map(|value| (value, depth + 1)));
            }
            _ => {}
        }
        if size > MAX_GRAMMAR_BYTES {
            let limit = MAX_GRAMMAR_BYTES >> 10;
            return Err(unusable("#", &format!("more than {limit} KiB")));
        }
    }
    Ok(deepest)
}

/// Checks the keywords of all schemas inside a schema, and of those that it refers to.
fn check_keywords(root: &Value, depth: usize) -> Result<()> {
    let mut todo = vec![("#".to_owned(), root)];
    let mut referred = HashSet::new();
    let mut chain = depth;
    while let Some((path, schema)) = todo.pop() {
        let object = match schema {
            Value::Object(object) => object,
            Value::Bool(_) => continue,
            _ => return Err(unusable(&path, "neither an object nor a boolean")),
        };
        for (key, value) in object {
            let here = format!("{path}/{key}");
            check_count(&here, key, value)?;
            match key.as_str() {
                "$ref" => {
                    let target = resolve(root, value).ok_or_else(|| {
                        let form = "no reference to a part of the schema, such as `#/$defs/name`";
                        unusable(&here, &format!("{value}, {form}"))
                    })?;
                    if let Some(reference) = value.as_str()
                        && referred.insert(reference)
                    {
                        chain += 1 + check_size(target)?;
                        if chain > MAX_CHAIN {
                            let found = format!("nesting deeper than {MAX_CHAIN} by references");
                            return Err(unusable(&here, &found));
                        }
                        todo.push((reference.to_owned(), target));
                    }
                }
                key if SCHEMAS.contains(&key) => match value {
                    Value::Array(items) => todo.extend(
                        items
                            .iter()
                            .enumerate()
                            .map(|(index, item)| (format!("{here}/{index}"), item)),
                    ),
                    _ => todo.push((here, value)),
                },
                key if SCHEMA_MAPS.contains(&key) => {
                    let Value::Object(map) = value else {
                        return Err(unusable(&here, "no object"));
                    };
                    todo.extend(map.iter().map(|(name, v)| (format!("{here}/{name}"), v)));
                }
                key if CONSTRAINTS.contains(&key) => check_numbers(&here, value)?,
                key if ANNOTATIONS.contains(&key) => {}
                key if key.starts_with("x-") && key != SETTINGS => {}
                key => {
                    let found = format!("the keyword `{key}`, which is not supported");
                    return Err(unusable(&path, &found));
                }
            }
        }
    }
    Ok(())
}

/// Checks the numbers of properties and options, in which the time to compile is quadratic or worse.
fn check_count(path: &str, key: &str, value: &Value) -> Result<()> {
    let limit = match key {
        "const" | "enum" => return Ok(()),
        "patternProperties" => MAX_PATTERNS,
        _ => MAX_PARTS,
    };
    let count = match value {
        Value::Array(items) => items.len(),
        Value::Object(map) => map.len(),
        _ => 0,
    };
    if count > limit {
        return Err(unusable(path, &format!("more than {limit} parts: {count}")));
    }
    Ok(())
}

/// The part of the schema that a reference names.
fn resolve<'a>(root: &'a Value, reference: &Value) -> Option<&'a Value> {
    match reference.as_str()?.strip_prefix('#')? {
        "" | "/" => Some(root),
        // The library does not unescape either, so that a name with `~` or `/` is not found.
        pointer => {
            let mut names = pointer.strip_prefix('/')?.split('/');
            names.try_fold(root, |value, name| match value {
                Value::Array(items) => items.get(name.parse::<usize>().ok()?),
                value => value.get(name),
            })
        }
    }
}

/// Checks that no integer of a constant or bound would be rounded.
fn check_numbers(path: &str, value: &Value) -> Result<()> {
    match value {
        Value::Number(number) => {
            let size = number.as_i64().map(i64::unsigned_abs).or(number.as_u64());
            if size.is_some_and(|size| size > MAX_INTEGER) {
                return Err(unusable(path, &format!("{number}, which is beyond 2^53")));
            }
            Ok(())
        }
        Value::Array(items) => items.iter().try_for_each(|item| check_numbers(path, item)),
        Value::Object(object) => object.values().try_for_each(|v| check_numbers(path, v)),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::Grammar;
    use super::super::tests::assert_unusable;
    use super::*;

    fn assert_refused(cases: &[(Value, &str)]) {
        let grammars = cases
            .iter()
            .map(|(schema, words)| (Grammar::JsonSchema(schema.clone()), *words));
        assert_unusable(&grammars.collect::<Vec<_>>());
    }

    #[test]
    fn what_no_value_meets_is_an_error() {
        let endless = json!({"type": "object", "properties": {"a": {"$ref": "#/anyOf/1"}},
            "required": ["a"]});
        assert_refused(&[
            (
                json!({"type": "integer", "minimum": 5, "maximum": 3}),
                "minimum (5)",
            ),
            (
                json!({"type": "integer", "multipleOf": 5, "minimum": 1, "maximum": 2}),
                "multiple of 5",
            ),
            (json!({"enum": []}), "empty"),
            (json!(false), "`false`"),
            (
                json!({"type": "object", "properties": {"a": false}, "required": ["a"]}),
                "'a'",
            ),
            (
                json!({"type": "string", "pattern": "^abc$", "maxLength": 2}),
                "abc",
            ),
            (
                json!({"type": "array", "minItems": 2, "maxItems": 1}),
                "minItems (2)",
            ),
            (
                json!({"allOf": [{"type": "null"}, {"type": "string"}]}),
                "incompatible types",
            ),
            (json!({"$ref": "#"}), "`start`"),
            // One option has values, but a model could enter the other.
            (
                json!({"anyOf": [{"type": "null"}, endless]}),
                "no text can complete",
            ),
        ]);
    }

    #[test]
    fn what_is_not_supported_is_an_error_that_says_where() {
        let keyword = |keyword: &str| format!("there is the keyword `{keyword}`");
        assert_refused(&[
            (json!(3), "neither an object nor a boolean"),
            (
                json!({"properties": 3}),
                "`#/properties` there is no object",
            ),
            (
                json!({"properties": {"a/b": {"uniqueItems": true}}}),
                &format!("`#/properties/a/b` {}", keyword("uniqueItems")),
            ),
            (
                json!({"items": {"anyOf": [true, {"not": {}}]}}),
                &format!("`#/items/anyOf/1` {}", keyword("not")),
            ),
            (
                json!({"$ref": "#/x-types/t", "x-types": {"t": {"minLenght": 3}}}),
                &format!("`#/x-types/t` {}", keyword("minLenght")),
            ),
            (
                json!({"x-guidance": {"lenient": true}}),
                &keyword("x-guidance"),
            ),
            (
                json!({"oneOf": [{"type": "integer"}, {"type": "number"}]}),
                "`anyOf` is",
            ),
            (json!({"type": "string", "format": "color"}), "color"),
            (json!({"type": "é".repeat(900)}), "Invalid type"),
            (
                json!({"items": {"$ref": "http://a/b"}}),
                "`#/items/$ref` there is \"http://a/b\"",
            ),
            (json!({"$ref": "#/$defs/a"}), "\"#/$defs/a\""),
            (
                json!({"$ref": "a".repeat(100_000)}),
                "`#/$ref` there is \"aaa",
            ),
            (
                json!({"const": {"a": [9_007_199_254_740_993_u64]}}),
                "9007199254740993",
            ),
        ]);
    }

    /// A schema with a chain of references.
    pub(crate) fn chain(length: usize) -> Value {
        let link = |i| json!({"items": {"$ref": format!("#/$defs/{}", (i + 1) % length)}});
        let links: Map<_, _> = (0..length).map(|i| (i.to_string(), link(i))).collect();
        json!({"$defs": links, "$ref": "#/$defs/0"})
    }

    #[test]
    fn schemas_in_lark_grammars_are_checked() {
        let refused = |lark: &str| check_embedded(lark).unwrap_err();
        let keyword = refused(r#"start: "a" %json {"items": {"uniqueItem": true}} "b""#);
        assert!(keyword.contains("`#/items`") && keyword.contains("`uniqueItem`"));
        let long = refused(&format!("start: %json{}", chain(MAX_CHAIN / 3 + 1)));
        assert!(long.contains("by references"), "{long}");
        let settings = r#"start: %json {"x-guidance": {"whitespace_flexible": false}}"#;
        for fine in [settings, r#"start: "%json" b"#, "start: %json {"] {
            check_embedded(fine).unwrap();
        }
    }

    #[test]
    fn what_is_too_large_is_an_error() {
        let nested = (0..200).fold(json!(true), |inner, _| json!({"items": inner}));
        let numbers: Vec<Value> = (0..12).map(|number| json!({"const": number})).collect();
        let patterns: Map<_, _> = (0..40).map(|i| (i.to_string(), json!(true))).collect();
        assert_refused(&[
            (nested, "deeper than 128"),
            (chain(MAX_CHAIN / 3 + 1), "deeper than 5000 by references"),
            (json!({"description": "x".repeat(300_000)}), "256 KiB"),
            (
                json!({"allOf": vec![json!({"anyOf": numbers}); 12]}),
                "too large",
            ),
            (
                json!({"oneOf": vec![true; 3000]}),
                "`#/oneOf` there is more than 2000",
            ),
            (json!({"patternProperties": patterns}), "more than 32"),
        ]);
    }

    #[test]
    fn annotations_and_extensions_have_no_effect() {
        let schema = json!({"$schema": "http://json-schema.org/draft-07/schema#", "title": "T",
            "x-order": 1, "properties": {"a": {"description": "d", "default": 1, "not": {}}}});
        let mut plain = schema.clone();
        plain["properties"]["a"]
            .as_object_mut()
            .unwrap()
            .remove("not");
        assert!(prepare(&schema).is_err());
        let prepared = prepare(&plain).unwrap();
        assert_eq!(prepared["properties"], plain["properties"]);
        assert_eq!(prepared[SETTINGS]["whitespace_flexible"], json!(false));
        assert!(prepared.get("$schema").is_none());
        assert_eq!(prepare(&json!(true)).unwrap().as_object().unwrap().len(), 1);
    }
}
