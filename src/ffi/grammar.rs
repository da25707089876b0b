//! Options of a generation: what the text must be.

use super::error::{mcandle_error, mcandle_status};
use super::generate_options::mcandle_generate_options;
use super::handle::{self, borrow_mut};
use super::panic::guard;
use crate::error::Error;
use crate::inference::Grammar;
use std::ffi::c_char;

/// Sets a JSON schema that the text must meet. It replaces an earlier schema, expression or grammar.
///
/// The text ends when nothing can follow. Where it ends before, because the most tokens were
/// generated or the time is over, it is the start of such a text. So it is for expressions and
/// grammars too.
///
/// The schema is of draft 2020-12. The JSON is on one line, and properties come in the order of the
/// schema. Supported are type, enum, const, anyOf, allOf, oneOf of options that exclude each other,
/// $ref into the same schema, properties, required, additionalProperties, patternProperties,
/// minProperties, maxProperties, items, prefixItems, additionalItems, minItems, maxItems, minLength,
/// maxLength, pattern, minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf, and format
/// with date-time, time, date, duration, email, hostname, ipv4, ipv6, uuid and uri. Annotations such
/// as title have no effect. Any other keyword, and a schema that nothing meets, is reported by the
/// call that uses the options.
///
/// @param[in,out] options The options.
/// @param[in] json_schema The schema as JSON in UTF-8; it is copied.
/// @param[in] json_schema_length Its length in bytes.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_ARGUMENT where it is not JSON, MCANDLE_INVALID_UTF8,
/// MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_json_schema(
    options: *mut mcandle_generate_options,
    json_schema: *const c_char,
    json_schema_length: usize,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes options that nobody else uses now and readable text, or NULL.
    unsafe {
        guard(error, || {
            let options = borrow_mut(options, "options")?;
            let text = handle::text(json_schema, json_schema_length, "json_schema")?;
            let schema = serde_json::from_str(text).map_err(|error| {
                let found = format!("not JSON ({error})");
                Error::option("json_schema", found, "a JSON schema")
            })?;
            options.inner.grammar = Some(Grammar::JsonSchema(schema));
            Ok(())
        })
    }
}

/// Sets a regular expression that must match the text from its start to its end. It replaces an
/// earlier schema, expression or grammar.
///
/// The syntax is that of Perl without look-around, word boundaries, back references and lazy
/// matching. An expression that cannot be used is reported by the call that uses the options.
///
/// @param[in,out] options The options.
/// @param[in] regex The expression in UTF-8, at most 256 KiB; it is copied.
/// @param[in] regex_length Its length in bytes.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_UTF8, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_regex(
    options: *mut mcandle_generate_options,
    regex: *const c_char,
    regex_length: usize,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes options that nobody else uses now and readable text, or NULL.
    unsafe {
        guard(error, || {
            let options = borrow_mut(options, "options")?;
            let regex = handle::text(regex, regex_length, "regex")?;
            options.inner.grammar = Some(Grammar::Regex(regex.to_owned()));
            Ok(())
        })
    }
}

/// Sets a context-free grammar that the text must follow. It replaces an earlier schema, expression
/// or grammar.
///
/// The syntax is llguidance's variant of Lark; the rule "start" is where the text starts. Names of
/// added tokens in angle brackets, such as <|im_end|>, stand for the tokens, which nothing else
/// produces. A grammar that cannot be used is reported by the call that uses the options.
///
/// @param[in,out] options The options.
/// @param[in] lark The grammar in UTF-8, at most 256 KiB; it is copied.
/// @param[in] lark_length Its length in bytes.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_UTF8, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_lark(
    options: *mut mcandle_generate_options,
    lark: *const c_char,
    lark_length: usize,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes options that nobody else uses now and readable text, or NULL.
    unsafe {
        guard(error, || {
            let options = borrow_mut(options, "options")?;
            let lark = handle::text(lark, lark_length, "lark")?;
            options.inner.grammar = Some(Grammar::Lark(lark.to_owned()));
            Ok(())
        })
    }
}

/// Removes what the text must be: schema, expression or grammar. There is none by default.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_clear_grammar(
    options: *mut mcandle_generate_options,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.grammar = None;
    }
}
