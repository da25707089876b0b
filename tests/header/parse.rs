//! What a header declares. It reads the regular form that cbindgen writes, and stops at any other.

use std::collections::HashMap;
use std::ops::Range;

/// A declaration and the comment above it.
pub struct Item {
    pub name: String,
    /// Without the stars; empty where there is none.
    pub comment: Vec<String>,
    pub declaration: Declaration,
    /// The lines of the declaration, counted from 0.
    pub lines: Range<usize>,
}

pub enum Declaration {
    /// A comment of the whole header.
    Page,
    /// `#define NAME ...`
    Macro,
    /// `typedef struct NAME NAME;`
    Opaque,
    /// `typedef int32_t NAME;`
    Alias {
        of: String,
    },
    /// `typedef bool (*NAME)(...);`
    Callback(Signature),
    Function(Signature),
}

#[derive(Debug, PartialEq)]
pub struct Signature {
    /// Macros before the type, such as that of a function whose result must be used.
    pub attributes: Vec<String>,
    pub returns: String,
    pub parameters: Vec<Parameter>,
}

#[derive(Debug, PartialEq)]
pub struct Parameter {
    /// Such as `const char *`.
    pub r#type: String,
    pub name: String,
}

/// A tag of a comment, such as `@param[in] path The file.`
#[derive(Debug, PartialEq)]
pub struct Tag {
    /// Such as `param`.
    pub name: String,
    /// Such as `in`, or nothing.
    pub option: String,
    pub text: String,
}

impl Item {
    pub fn signature(&self) -> Option<&Signature> {
        match &self.declaration {
            Declaration::Function(signature) | Declaration::Callback(signature) => Some(signature),
            _ => None,
        }
    }

    pub fn is_function(&self) -> bool {
        matches!(self.declaration, Declaration::Function(_))
    }

    pub fn is_callback(&self) -> bool {
        matches!(self.declaration, Declaration::Callback(_))
    }

    pub fn is_opaque(&self) -> bool {
        matches!(self.declaration, Declaration::Opaque)
    }

    pub fn is_alias(&self) -> bool {
        matches!(self.declaration, Declaration::Alias { .. })
    }

    pub fn is_macro(&self) -> bool {
        matches!(self.declaration, Declaration::Macro)
    }

    /// The tags of the comment, each with its text on one line.
    pub fn tags(&self) -> Vec<Tag> {
        let mut tags: Vec<Tag> = Vec::new();
        for line in &self.comment {
            if let Some(tag) = line.strip_prefix('@') {
                let (head, text) = tag.split_once(' ').unwrap_or((tag, ""));
                let (name, option) = head.split_once('[').unwrap_or((head, ""));
                tags.push(Tag {
                    name: name.to_owned(),
                    option: option.trim_end_matches(']').to_owned(),
                    text: text.to_owned(),
                });
            } else if let Some(tag) = tags.last_mut() {
                tag.text.push(' ');
                tag.text.push_str(line);
            }
        }
        tags
    }

    /// What the comment says of a parameter: its direction, and the text.
    pub fn parameter(&self, parameter: &str) -> (String, String) {
        let tags = self.tags().into_iter();
        tags.filter(|tag| tag.name == "param")
            .find_map(|tag| {
                let (name, text) = tag.text.split_once(' ').unwrap_or((&tag.text, ""));
                (name == parameter).then(|| (tag.option.clone(), text.to_owned()))
            })
            .unwrap_or_default()
    }

    /// What the comment says of the result.
    pub fn return_text(&self) -> String {
        let mut tags = self.tags().into_iter();
        tags.find(|tag| tag.name == "return")
            .map_or(String::new(), |tag| tag.text)
    }
}

/// Everything that a header declares, in order.
pub fn items(header: &str) -> Vec<Item> {
    let lines: Vec<&str> = header.lines().collect();
    let mut items = Vec::new();
    let mut comment = Vec::new();
    // Comments that name what they are of, in a `@def`.
    let mut named = HashMap::new();
    let mut at = 0;
    while at < lines.len() {
        let start = at;
        let line = lines[at];
        at += 1;
        if line.starts_with("/*") {
            let end = start + find(&lines[start..], |line| line.ends_with("*/"));
            comment = text(&lines[start..=end]);
            at = end + 1;
            let first = comment.first().cloned().unwrap_or_default();
            if let Some(name) = first.strip_prefix("@def ") {
                named.insert(name.to_owned(), comment.split_off(1));
            } else if first.starts_with("@file") || first.starts_with("@mainpage") {
                items.push(Item {
                    name: first,
                    comment: std::mem::take(&mut comment),
                    declaration: Declaration::Page,
                    lines: start..at,
                });
            }
        } else if let Some(define) = line.strip_prefix("#define ") {
            at = start + find(&lines[start..], |line| !line.ends_with('\\')) + 1;
            let name = define.split([' ', '(']).next().unwrap();
            if comment.is_empty() {
                comment = named.get(name).cloned().unwrap_or_default();
            }
            items.push(Item {
                name: name.to_owned(),
                comment: std::mem::take(&mut comment),
                declaration: Declaration::Macro,
                lines: start..at,
            });
        } else if line.is_empty() || line.starts_with('#') || line.starts_with("MCANDLE_ASSERT") {
            at = start + find(&lines[start..], |line| !line.ends_with('\\')) + 1;
            comment.clear();
        } else if line != "extern \"C\" {" && !line.starts_with('}') {
            at = start + find(&lines[start..], |line| line.ends_with(';')) + 1;
            let (name, declaration) = declaration(&lines[start..at].join(" "));
            items.push(Item {
                name,
                comment: std::mem::take(&mut comment),
                declaration,
                lines: start..at,
            });
        }
    }
    items
}

fn find(lines: &[&str], is: impl Fn(&str) -> bool) -> usize {
    let found = lines.iter().position(|line| is(line));
    found.unwrap_or_else(|| panic!("no end of {:?}", lines[0]))
}

/// The text of a comment of Doxygen; nothing of another one.
fn text(lines: &[&str]) -> Vec<String> {
    if !lines[0].starts_with("/**") {
        return Vec::new();
    }
    let lines = lines.iter().map(|line| {
        let line = line.trim_start_matches("/**").trim_end_matches("*/").trim();
        line.trim_start_matches('*').trim_start().to_owned()
    });
    lines.filter(|line| !line.is_empty()).collect()
}

/// A declaration, and the name that it declares.
fn declaration(code: &str) -> (String, Declaration) {
    let code = code.split_whitespace().collect::<Vec<_>>().join(" ");
    let code = code.trim_end_matches(';');
    let parsed = match code.strip_prefix("typedef ") {
        Some(code) if code.contains('(') => callback(code),
        Some(code) => typedef(code),
        None => function(code),
    };
    parsed.unwrap_or_else(|| panic!("not of a known form, as a visible structure is not: {code}"))
}

/// `struct NAME NAME` or `TYPE NAME`
fn typedef(code: &str) -> Option<(String, Declaration)> {
    let words: Vec<&str> = code.split(' ').collect();
    let declaration = match words[..] {
        ["struct", tag, name] if tag == name => Declaration::Opaque,
        [of, name] if !name.contains(['*', '[']) => Declaration::Alias { of: of.to_owned() },
        _ => return None,
    };
    Some((words.last()?.to_string(), declaration))
}

/// `RESULT (*NAME)(PARAMETERS)`
fn callback(code: &str) -> Option<(String, Declaration)> {
    let (returns, rest) = code.split_once(" (*")?;
    let (name, list) = rest.split_once(")(")?;
    let signature = Signature {
        attributes: Vec::new(),
        returns: returns.to_owned(),
        parameters: parameters(list)?,
    };
    Some((name.to_owned(), Declaration::Callback(signature)))
}

/// `ATTRIBUTES RESULT NAME(PARAMETERS)`
fn function(code: &str) -> Option<(String, Declaration)> {
    let (mut head, list) = code.rsplit_once('(')?;
    let mut attributes = Vec::new();
    while head.starts_with("MCANDLE_") {
        let space = head.find(' ')?;
        // One with a message ends behind it.
        let end = if head[..space].contains('(') {
            head.find("\")")? + 2
        } else {
            space
        };
        attributes.push(head[..end].to_owned());
        head = head[end..].trim_start();
    }
    let Parameter { r#type, name } = parameter(head)?;
    let signature = Signature {
        attributes,
        returns: r#type,
        parameters: parameters(list)?,
    };
    Some((name, Declaration::Function(signature)))
}

/// `PARAMETERS)`
fn parameters(list: &str) -> Option<Vec<Parameter>> {
    let list = list.strip_suffix(')')?;
    let list = list.split(", ").filter(|one| *one != "void");
    list.map(parameter).collect()
}

/// `TYPE NAME`
fn parameter(code: &str) -> Option<Parameter> {
    let (r#type, name) = code.split_at(code.rfind([' ', '*'])? + 1);
    let simple = |text: &str| !text.contains(['(', ')', '{', '[']);
    (simple(code) && !name.is_empty()).then(|| Parameter {
        r#type: r#type.trim().to_owned(),
        name: name.to_owned(),
    })
}
