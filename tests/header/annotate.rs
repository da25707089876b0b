//! What cbindgen cannot write: which pointers may be NULL, the layout of types, Swift's enumerations,
//! sections, the version.
//!
//! The comments are the truth about NULL. cbindgen would go by the types in the source, where every
//! pointer of a C program may be NULL.

mod tests;

use crate::conditions;
use crate::enums::Enums;
use crate::parse::{Declaration, Item, Parameter, Signature};
use crate::sections::Sections;
use std::collections::HashSet;
use std::fmt::Write;

const WIDTH: usize = 100;
const END: &str = "\n#endif  /* METAL_CANDLE_H */";
/// The end of what cbindgen.toml begins, within the include guard.
const RESTORE: &str = "
#if defined(__clang__)
#pragma clang diagnostic pop
#endif
";

/// The header as it is committed.
pub fn finish(header: &str, items: &[Item], sections: &Sections, version: &str) -> String {
    let mut finished = String::new();
    let mut next = 0;
    let lines: Vec<&str> = header.lines().collect();
    let callbacks = Callbacks::of(items);
    let enums = Enums::of(&lines, items, sections);
    for item in items {
        sections.copy(&lines[next..item.lines.start], item, &mut finished);
        match &item.declaration {
            Declaration::Page | Declaration::Macro | Declaration::Opaque => {
                copy(&lines[item.lines.clone()], &mut finished);
            }
            Declaration::Alias { of } => {
                let size = size_of(of);
                enums.write(item, &lines[item.lines.clone()], &mut finished);
                assert_layout(&item.name, size, &mut finished);
            }
            Declaration::Callback(signature) => {
                let head = format!("typedef {}(*{})", spaced(&signature.returns), item.name);
                callbacks.write(&head, item, signature, &mut finished);
                assert_layout(&item.name, "sizeof(void *)", &mut finished);
            }
            Declaration::Function(signature) => {
                let mut words = signature.attributes.clone();
                words.push(spaced(&returns(item, signature)) + &item.name);
                let head = words.join(" ");
                callbacks.write(&head, item, signature, &mut finished);
            }
        }
        next = item.lines.end;
    }
    copy(&lines[next..], &mut finished);
    let finished = Sections::end(&finished);
    let finished = finished.replacen(END, &format!("{RESTORE}{END}"), 1);
    with_version(&conditions::joined(&finished), version)
}

fn copy(lines: &[&str], to: &mut String) {
    for line in lines {
        writeln!(to, "{line}").unwrap();
    }
}

fn with_version(header: &str, version: &str) -> String {
    let mut header = header.replace("@VERSION@", version);
    let release = version.split(['-', '+']).next().unwrap();
    let numbers: Vec<&str> = release.split('.').collect();
    for (place, number) in ["@MAJOR@", "@MINOR@", "@PATCH@"].into_iter().zip(numbers) {
        header = header.replace(place, number);
    }
    header
}

fn size_of(r#type: &str) -> &'static str {
    match r#type {
        "int32_t" | "uint32_t" => "4",
        "int64_t" | "uint64_t" => "8",
        _ => panic!("not of a fixed width: {type}"),
    }
}

fn assert_layout(name: &str, size: &str, to: &mut String) {
    writeln!(to, "MCANDLE_ASSERT_LAYOUT({name}, {size})").unwrap();
}

/// The types of callbacks, which are pointers without a star.
struct Callbacks<'a>(HashSet<&'a str>);

impl<'a> Callbacks<'a> {
    fn of(items: &'a [Item]) -> Self {
        let callbacks = items.iter().filter(|item| item.is_callback());
        Self(callbacks.map(|item| item.name.as_str()).collect())
    }

    /// A declaration, on one line where it fits.
    fn write(&self, head: &str, item: &Item, signature: &Signature, to: &mut String) {
        let parameters: Vec<String> = (0..signature.parameters.len())
            .map(|index| self.parameter(item, &signature.parameters, index))
            .collect();
        let list = if parameters.is_empty() {
            "void".to_owned()
        } else {
            parameters.join(", ")
        };
        let line = format!("{head}({list});");
        if line.len() <= WIDTH {
            writeln!(to, "{line}").unwrap();
        } else {
            writeln!(to, "{head}(\n    {});", parameters.join(",\n    ")).unwrap();
        }
    }

    fn parameter(&self, item: &Item, parameters: &[Parameter], index: usize) -> String {
        let Parameter { r#type, name } = &parameters[index];
        let nullable = parameter_is_nullable(item, parameters, index);
        let mut annotated = annotated(r#type, nullable);
        if self.0.contains(r#type.as_str()) {
            write!(annotated, " {}", annotation(nullable)).unwrap();
        }
        spaced(&annotated) + name
    }
}

fn returns(item: &Item, signature: &Signature) -> String {
    annotated(&signature.returns, return_is_nullable(item))
}

/// A type with an annotation behind each star. The last one is of the pointer itself.
fn annotated(r#type: &str, nullable: bool) -> String {
    let stars = r#type.matches('*').count();
    let mut parts = r#type.split('*');
    let mut annotated = parts.next().unwrap_or_default().to_owned();
    for (index, part) in parts.enumerate() {
        let is_last = index + 1 == stars;
        // The place of an output holds anything before the call, the items of an array are given.
        let nullable = if is_last {
            nullable
        } else {
            !part.contains("const")
        };
        let gap = if is_last { "" } else { " " };
        write!(annotated, "*{}{gap}{part}", annotation(nullable)).unwrap();
    }
    annotated
}

fn annotation(nullable: bool) -> &'static str {
    if nullable {
        "MCANDLE_NULLABLE"
    } else {
        "MCANDLE_NONNULL"
    }
}

/// With the space that separates a type from a name, but for a star.
fn spaced(r#type: &str) -> String {
    let gap = if r#type.ends_with('*') { "" } else { " " };
    format!("{type}{gap}")
}

fn parameter_is_nullable(item: &Item, parameters: &[Parameter], index: usize) -> bool {
    let Parameter { r#type, name } = &parameters[index];
    // Two rules of the main page: user data is whatever the program likes, and a text or an array of
    // no length need not be anywhere.
    if r#type == "void *" {
        return true;
    }
    let is_length = |next: &Parameter| {
        next.r#type == "size_t" && (next.name.ends_with("_length") || next.name.ends_with("count"))
    };
    let is_array = r#type.starts_with("const ") && r#type.ends_with('*');
    if item.is_function() && is_array && parameters.get(index + 1).is_some_and(is_length) {
        return true;
    }
    let (direction, text) = item.parameter(name);
    match direction.as_str() {
        // That it receives NULL is another matter.
        "out" => text.contains("may be NULL"),
        _ => text.contains("NULL"),
    }
}

fn return_is_nullable(item: &Item) -> bool {
    let text = item.return_text();
    text.contains("NULL for") || text.contains("NULL where")
}
