//! What the comments of the header have to say.

mod tests;

use crate::parse::{Item, Parameter, Signature};
use std::collections::HashSet;

/// Words of Rust, which mean nothing or something else to a C programmer.
const FOREIGN: &[&str] = &[
    "Arc", "Box", "Err", "None", "Option", "Result", "Rust", "Some", "Vec", "borrow", "borrowed",
    "borrows", "cargo", "closure", "crate", "drop", "dropped", "drops", "panic", "panics", "slice",
    "slices", "trait", "unsafe", "unwind", "unwinds", "unwrap",
];

/// What is wrong with the comments, one line each.
pub fn faults(items: &[Item]) -> Vec<String> {
    let header = Header::of(items);
    let mut faults = Vec::new();
    for item in items.iter().filter(|item| item.name != "METAL_CANDLE_H") {
        let mut fault = |text: String| faults.push(format!("{}: {text}", item.name));
        if item.comment.is_empty() {
            fault("no comment".to_owned());
            continue;
        }
        words(item, &header, &mut fault);
        if let Some(signature) = item.signature() {
            parameters(item, signature, &header, &mut fault);
            result(item, signature, &mut fault);
        }
    }
    faults
}

/// What comments can refer to.
struct Header<'a> {
    names: HashSet<&'a str>,
    objects: HashSet<&'a str>,
}

impl<'a> Header<'a> {
    fn of(items: &'a [Item]) -> Self {
        let names = items.iter().map(|item| item.name.as_str());
        let objects = items.iter().filter(|item| item.is_opaque());
        Self {
            names: names.collect(),
            objects: objects.map(|item| item.name.as_str()).collect(),
        }
    }

    fn has(&self, name: &str) -> bool {
        // Constants of a kind are named by what their names start with.
        let is_group = name.ends_with('_') && self.names.iter().any(|one| one.starts_with(name));
        // Those that a program defines for the header.
        let is_switch = ["MCANDLE_NO_NULLABILITY", "MCANDLE_WITHOUT_TRAINING"].contains(&name);
        is_group || is_switch || self.names.contains(name)
    }
}

fn words(item: &Item, header: &Header<'_>, fault: &mut impl FnMut(String)) {
    let comment = item.comment.join(" ");
    for word in comment.split(|c: char| !c.is_alphanumeric() && c != '_') {
        if FOREIGN.contains(&word) {
            fault(format!("a word of Rust: {word}"));
        }
        if ["mcandle_", "MCANDLE_"]
            .iter()
            .any(|prefix| word.starts_with(prefix))
            && !header.has(word)
        {
            fault(format!("names {word}, which is not declared"));
        }
    }
    let markup = ["[`", "](", "# Safety", "# Errors"];
    if let Some(markup) = markup.iter().find(|markup| comment.contains(**markup)) {
        fault(format!("a link or heading of Rust: {markup}"));
    }
}

fn parameters(
    item: &Item,
    signature: &Signature,
    header: &Header<'_>,
    fault: &mut impl FnMut(String),
) {
    let tags = item.tags();
    let documented: Vec<&str> = tags
        .iter()
        .filter(|tag| tag.name == "param")
        .map(|tag| tag.text.split(' ').next().unwrap_or_default())
        .collect();
    let declared: Vec<&str> = signature
        .parameters
        .iter()
        .map(|one| one.name.as_str())
        .collect();
    if documented != declared {
        fault(format!("documents {documented:?}, not {declared:?}"));
        return;
    }
    for parameter in &signature.parameters {
        let name = &parameter.name;
        let (direction, text) = item.parameter(name);
        let expected = expected_direction(item, parameter, header);
        if direction != expected {
            fault(format!("{name} is [{direction}], not [{expected}]"));
        }
        if text.is_empty() {
            fault(format!("nothing is said of {name}"));
        }
        if let Some(object) = handed_over(item, parameter, header) {
            let says = text.contains(&format!("{object}_free()"));
            if !says && !text.contains("freed likewise") {
                fault(format!("{name} does not say that {object}_free() frees it"));
            }
        }
    }
}

/// The type of an object that belongs to the program from then on: of an output, or given to a
/// callback. Those of the outputs of errors are alike everywhere.
fn handed_over<'a>(item: &Item, parameter: &'a Parameter, header: &Header<'_>) -> Option<&'a str> {
    let stars = if item.is_callback() { "*" } else { "**" };
    let object = parameter.r#type.strip_suffix(stars)?.trim();
    let is_error = object == "mcandle_error" && item.is_function();
    (header.objects.contains(object) && !is_error).then_some(object)
}

/// Which way a parameter goes, as its type tells.
fn expected_direction(item: &Item, parameter: &Parameter, header: &Header<'_>) -> &'static str {
    let pointed = parameter.r#type.strip_suffix('*').map(str::trim);
    match pointed {
        None | Some("void") => "in",
        Some(pointed) if pointed.ends_with("const") => "in",
        Some(pointed) if pointed.ends_with('*') => "out",
        Some(pointed) if pointed.starts_with("const ") => "in",
        Some(_) if item.name.ends_with("_free") => "in",
        Some(pointed) if item.is_callback() && header.objects.contains(pointed) => "in",
        Some(pointed) if header.objects.contains(pointed) => "in,out",
        // Numbers that a callback is given to change.
        Some("float") if item.is_callback() => "in,out",
        Some(_) => "out",
    }
}

fn result(item: &Item, signature: &Signature, fault: &mut impl FnMut(String)) {
    let text = item.return_text();
    let returns = signature.returns.as_str();
    if text.is_empty() != (returns == "void") {
        fault(format!(
            "returns {returns}, of which the comment says: {text:?}"
        ));
    } else if returns.ends_with('*') {
        let object = returns.trim_end_matches('*').trim();
        if returns.starts_with("const ") {
            if !text.contains("live") {
                fault("does not say how long the result lives".to_owned());
            }
            return;
        }
        if !text.contains(&format!("{object}_free()")) {
            fault(format!(
                "does not say that {object}_free() frees the result"
            ));
        }
        if !signature
            .attributes
            .iter()
            .any(|one| one == "MCANDLE_MUST_USE")
        {
            fault("does not say that the result must be used".to_owned());
        }
    } else if returns == "mcandle_status" && item.is_function() {
        statuses(item, signature, &text, fault);
    }
}

/// The statuses that follow from the types of the parameters.
fn statuses(item: &Item, signature: &Signature, text: &str, fault: &mut impl FnMut(String)) {
    // Of another function, whose comment has them.
    if text.starts_with("As mcandle_") || text.contains("what mcandle_") {
        return;
    }
    let takes = |types: &[&str]| {
        let mut parameters = signature.parameters.iter();
        parameters.any(|one| types.contains(&one.r#type.as_str()))
    };
    let mut expect = |status: &str, of_arguments: bool| {
        let is_among = of_arguments && text.contains("those of bad arguments");
        if !is_among && !text.contains(status) {
            fault(format!("does not say {status}"));
        }
    };
    if item.name == "mcandle_error_status" {
        return;
    }
    expect("MCANDLE_OK", false);
    let required = |one: &Parameter| {
        let is_pointer = one.r#type.ends_with('*') && one.r#type != "void *";
        is_pointer && !item.parameter(&one.name).1.contains("NULL")
    };
    if signature.parameters.iter().any(required) {
        expect("MCANDLE_NULL_POINTER", true);
    }
    if takes(&["const char *", "const char *const *"]) {
        expect("MCANDLE_INVALID_UTF8", true);
    }
    if takes(&[
        "mcandle_generator *",
        "mcandle_batch *",
        "mcandle_trainer *",
        "const mcandle_generator *",
        "const mcandle_trainer *",
    ]) {
        expect("MCANDLE_BUSY", false);
    }
}
