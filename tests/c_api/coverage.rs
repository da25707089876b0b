//! That no function and no parameter of the header is forgotten by the C programs that misuse it.
//!
//! What has to be tried follows from the types in the header: NULL for every pointer, a text that is
//! not UTF-8, a length that no memory has, a number that is no constant of its kind.

use std::collections::BTreeMap;
use std::fs;

#[derive(Debug)]
struct Parameter {
    /// Without `const` and what only compilers read, such as `mcandle_model *`.
    kind: String,
    name: String,
}

impl Parameter {
    fn is_pointer(&self) -> bool {
        let ends = ["*", "_callback", "_completion"];
        ends.iter().any(|end| self.kind.ends_with(end))
    }

    fn is_text(&self) -> bool {
        self.kind == "char *"
    }

    /// The constants of the C API are numbers of their own types.
    fn is_constant(&self) -> bool {
        self.kind.starts_with("mcandle_") && !self.is_pointer()
    }

    /// Whether a length may follow.
    fn is_data(&self) -> bool {
        ["char *", "char * *", "uint32_t *"].contains(&self.kind.as_str())
    }

    fn is_length(&self) -> bool {
        let ends = ["length", "count"];
        self.kind == "size_t" && ends.iter().any(|end| self.name.ends_with(end))
    }
}

/// The functions of the header, by name.
fn functions() -> BTreeMap<String, Vec<Parameter>> {
    let header = fs::read_to_string("include/metal_candle.h").unwrap();
    let code = without_comments(&header);
    let lines = code.lines().filter(|line| !line.starts_with('#'));
    let code = lines.collect::<Vec<_>>().join(" ");
    let mut functions = BTreeMap::new();
    for declaration in code.split([';', '{', '}']) {
        if declaration.contains("typedef") {
            continue;
        }
        let Some((before, rest)) = declaration
            .match_indices('(')
            .map(|(at, _)| declaration.split_at(at))
            .find(|(before, _)| last_word(before).starts_with("mcandle_"))
        else {
            continue;
        };
        let end = closing(rest).unwrap();
        let parameters = split(&rest[1..end]);
        let parameters = parameters.iter().filter_map(|text| parameter(text));
        functions.insert(last_word(before).to_owned(), parameters.collect());
    }
    functions
}

/// `const char *path` as its parts; nothing for `void`.
fn parameter(text: &str) -> Option<Parameter> {
    let spaced = text.replace('*', " * ");
    let mut words = spaced
        .split_whitespace()
        .filter(|word| *word != "const" && !word.starts_with("MCANDLE_"))
        .collect::<Vec<_>>();
    let name = words.pop()?.to_owned();
    let kind = words.join(" ");
    (!kind.is_empty()).then_some(Parameter { kind, name })
}

fn without_comments(code: &str) -> String {
    let mut left = String::new();
    let mut rest = code;
    while let Some((before, after)) = rest.split_once("/*") {
        left.push_str(before);
        rest = after.split_once("*/").map_or("", |(_, after)| after);
    }
    left + rest
}

fn last_word(text: &str) -> &str {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let text = text.trim_end();
    let start = text.rfind(|c| !is_word(c)).map_or(0, |at| at + 1);
    &text[start..]
}

/// Where the parenthesis that opens a text is closed, literals left aside.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote, mut escaped) = (0, None, false);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), _) if open == c => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '(') => depth += 1,
            (None, ')') => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// Arguments or parameters, at the commas that are in no parentheses and no literal.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let width = match c {
            '(' => closing(rest).map_or(1, |at| at + 1),
            '"' | '\'' => literal(rest),
            _ => c.len_utf8(),
        };
        if c == ',' {
            parts.push(String::new());
        } else {
            parts.last_mut().unwrap().push_str(&rest[..width]);
        }
        rest = &rest[width..];
    }
    parts.iter().map(|part| part.trim().to_owned()).collect()
}

/// The bytes of the literal that a text begins with.
fn literal(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if text.starts_with(c) => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The arguments of every call in the C programs, by function.
fn calls() -> BTreeMap<String, Vec<Vec<String>>> {
    let mut calls = BTreeMap::<_, Vec<_>>::new();
    for entry in fs::read_dir("tests/c").unwrap() {
        let code = fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        let code = without_comments(&code).replace("\\\n", "\n");
        for (at, _) in code.match_indices('(') {
            let name = last_word(&code[..at]);
            if name.starts_with("mcandle_") {
                let end = closing(&code[at..]).unwrap();
                let arguments = split(&code[at + 1..at + end]);
                calls.entry(name.to_owned()).or_default().push(arguments);
            }
        }
    }
    calls
}

/// A literal number that is a constant of no kind.
fn is_no_constant(argument: &str) -> bool {
    argument
        .parse::<i64>()
        .is_ok_and(|number| !(0..9).contains(&number))
}

#[test]
fn every_parameter_is_misused_by_a_c_program() {
    let (functions, calls) = (functions(), calls());
    assert!(functions.len() > 200, "only {} found", functions.len());
    let mut missing = Vec::new();
    let mut count = 0;
    for (name, parameters) in &functions {
        let of_function = calls.get(name).map_or(&[][..], Vec::as_slice);
        for (at, parameter) in parameters.iter().enumerate() {
            let mut require = |what: &str, is_tried: &dyn Fn(&[String]) -> bool| {
                count += 1;
                let mut whole = of_function.iter().filter(|a| a.len() == parameters.len());
                if !whole.any(|arguments| is_tried(arguments)) {
                    missing.push(format!("{name}: {what} for `{}`", parameter.name));
                }
            };
            if ["error", "user_data"].contains(&parameter.name.as_str()) {
                continue;
            }
            if parameter.is_pointer() {
                require("NULL", &|arguments| arguments[at] == "NULL");
            }
            if parameter.is_text() {
                require("a text that is not UTF-8", &|arguments| {
                    arguments[at].contains("\\xFF")
                });
            }
            if parameter.is_length() && at > 0 && parameters[at - 1].is_data() {
                require("NULL and a length of 0", &|arguments| {
                    arguments[at - 1] == "NULL" && arguments[at] == "0"
                });
                require("a length beyond all memory", &|arguments| {
                    arguments[at] == "SIZE_MAX"
                });
            }
            if parameter.is_constant() {
                require("a number that is no constant", &|arguments| {
                    is_no_constant(&arguments[at])
                });
            }
        }
    }
    assert!(count > 300, "only {count} things to try");
    assert!(missing.is_empty(), "never tried:\n{}", missing.join("\n"));
}
