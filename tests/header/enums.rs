//! Kinds as Swift reads them: open enumerations of the constants, where C and C++ see numbers.

use crate::parse::{self, Item};
use crate::sections::Sections;
use std::collections::HashMap;
use std::fmt::Write;

/// What all constants start with.
const PREFIX: &str = "MCANDLE_";

/// The constants of each kind with their values, in order.
pub struct Enums<'a>(HashMap<&'a str, Vec<(&'a str, &'a str)>>);

impl<'a> Enums<'a> {
    pub fn of(lines: &[&'a str], items: &'a [Item], sections: &'a Sections) -> Self {
        let mut enums: HashMap<&str, Vec<_>> = HashMap::new();
        for item in items.iter().filter(|item| item.is_macro()) {
            if let Some(kind) = sections.kind(&item.name) {
                let mut words = lines[item.lines.start].splitn(3, ' ').skip(2);
                let value = words.next().expect("a value");
                enums
                    .entry(kind)
                    .or_default()
                    .push((item.name.as_str(), value));
            }
        }
        Self(enums)
    }

    /// The type of an alias: for Swift too, where it is a kind.
    pub fn write(&self, item: &Item, alias: &[&str], to: &mut String) {
        let constants = self.0.get(item.name.as_str());
        if let Some(constants) = constants {
            let (kind, prefix) = (&item.name, prefix(item));
            // Before C23 the size of an enumeration is an extension, of which -pedantic warns.
            let head = format!("__extension__ typedef enum MCANDLE_OPEN_ENUM {kind} : int32_t {{");
            writeln!(to, "#if defined(__swift__)\n{head}").unwrap();
            for (constant, value) in constants {
                let name = swift_name(constant, prefix);
                let name = format!("MCANDLE_SWIFT_NAME(\"{name}\")");
                writeln!(to, "    {constant} {name} = {value},").unwrap();
            }
            writeln!(to, "}} {kind};\n#else").unwrap();
        }
        for line in alias {
            writeln!(to, "{line}").unwrap();
        }
        if constants.is_some() {
            to.push_str("#endif\n");
        }
    }
}

/// What Swift need not repeat of the constants of a kind: what its comment says that they start with.
///
/// What they have in common would change with the next constant, and with it their names.
fn prefix(kind: &Item) -> &str {
    let words = kind.comment.iter().flat_map(|line| line.split(' '));
    let mut prefixes = words.filter(|word| word.starts_with(PREFIX) && word.ends_with('_'));
    prefixes.next().unwrap_or(PREFIX)
}

/// The name of a constant in Swift: without the prefix, in camel case. Two digits stay apart.
fn swift_name(constant: &str, prefix: &str) -> String {
    let rest = constant.strip_prefix(prefix);
    let rest = rest.unwrap_or_else(|| panic!("{constant} does not start with {prefix}"));
    let mut name = String::new();
    for word in rest.split('_') {
        let word = word.to_lowercase();
        let (first, tail) = word.split_at(1);
        if name.is_empty() {
            assert!(!first.starts_with(is_digit), "no name in Swift: {constant}");
            name.push_str(first);
        } else {
            if name.ends_with(is_digit) && first.starts_with(is_digit) {
                name.push('_');
            }
            name.push_str(&first.to_uppercase());
        }
        name.push_str(tail);
    }
    name
}

fn is_digit(character: char) -> bool {
    character.is_ascii_digit()
}

#[test]
fn names_are_as_swift_writes_them() {
    for (constant, prefix, name) in [
        ("MCANDLE_OK", "MCANDLE_", "ok"),
        ("MCANDLE_INVALID_ARGUMENT", "MCANDLE_", "invalidArgument"),
        ("MCANDLE_INVALID_UTF8", "MCANDLE_", "invalidUtf8"),
        ("MCANDLE_OUT_OF_MEMORY", "MCANDLE_", "outOfMemory"),
        ("MCANDLE_FINISH_STOP", "MCANDLE_FINISH_", "stop"),
        ("MCANDLE_GGUF_BF16", "MCANDLE_GGUF_", "bf16"),
        ("MCANDLE_GGUF_Q6_K", "MCANDLE_GGUF_", "q6K"),
        ("MCANDLE_GGUF_Q8_0", "MCANDLE_GGUF_", "q8_0"),
    ] {
        assert_eq!(swift_name(constant, prefix), name);
    }
}

#[test]
#[should_panic(expected = "MCANDLE_FINISH_STOP does not start with MCANDLE_END_")]
fn constants_start_with_what_the_comment_says() {
    swift_name("MCANDLE_FINISH_STOP", "MCANDLE_END_");
}

#[test]
#[should_panic(expected = "no name in Swift: MCANDLE_BITS_4")]
fn names_start_with_a_letter() {
    swift_name("MCANDLE_BITS_4", "MCANDLE_BITS_");
}

#[test]
fn the_comment_says_what_constants_start_with() {
    let of = |comment: &str| {
        let kinds = parse::items(&format!(
            "/** {comment} */\ntypedef int32_t mcandle_kind;\n"
        ));
        prefix(&kinds[0]).to_owned()
    };
    assert_eq!(of("One of the MCANDLE_KIND_ constants."), "MCANDLE_KIND_");
    assert_eq!(of("MCANDLE_OK, or something else."), "MCANDLE_");
}
