//! The sections of the header: functions by the file of the source, under its first sentence, and
//! constants by their kind.

use crate::parse::Item;
use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

const END: &str = "/** @} */\n\n";

/// Headings, by what they stand before, and what constants are values of.
pub struct Sections {
    headings: HashMap<String, Heading>,
    kinds: HashMap<String, String>,
}

/// The end of a section and the start of another.
struct Heading {
    end: &'static str,
    start: String,
}

impl Sections {
    /// Those of the files in a folder and in the folders below.
    pub fn of(folder: impl AsRef<Path>, items: &[Item]) -> Self {
        let mut titles = HashMap::new();
        let mut kinds = HashMap::new();
        for path in files_below(folder.as_ref()) {
            let source = fs::read_to_string(&path).unwrap();
            let file = path.file_stem().unwrap().to_string_lossy();
            for name in functions(&source) {
                let title = format!("@defgroup {file} {}", first_sentence(&source));
                titles.insert(name.to_owned(), title);
            }
            for (name, kind) in constants(&source) {
                titles.insert(name.to_owned(), format!("@name Values of {kind}"));
                kinds.insert(name.to_owned(), kind.to_owned());
            }
        }
        let mut headings = HashMap::new();
        let mut last = None;
        for item in items {
            let title = titles.get(&item.name);
            assert!(title.is_some() || !item.is_function(), "{}", item.name);
            if title != last {
                let end = last.map_or("", |_| END);
                let start = title.map(|title| format!("/**\n * {title}\n * @{{\n */\n\n"));
                let start = start.unwrap_or_default();
                headings.insert(item.name.clone(), Heading { end, start });
                last = title;
            }
        }
        Self { headings, kinds }
    }

    /// The kind that a constant is a value of.
    pub fn kind(&self, constant: &str) -> Option<&str> {
        self.kinds.get(constant).map(String::as_str)
    }

    /// Copies the lines before an item, with its heading if there is one. A section ends behind what
    /// belongs to the item before, and starts before what belongs to this one, such as its comment.
    pub fn copy(&self, lines: &[&str], item: &Item, to: &mut String) {
        let heading = self.headings.get(&item.name);
        let first_gap = lines.iter().position(|line| line.is_empty());
        let last_gap = lines.iter().rposition(|line| line.is_empty());
        for (index, line) in lines.iter().enumerate() {
            writeln!(to, "{line}").unwrap();
            let Some(Heading { end, start }) = heading else {
                continue;
            };
            if first_gap == Some(index) {
                to.push_str(end);
            }
            if last_gap == Some(index) {
                to.push_str(start);
            }
        }
    }

    /// The header with the end of the last section.
    pub fn end(header: &str) -> String {
        const AFTER: &str = "#ifdef __cplusplus\n}";
        header.replacen(AFTER, &format!("{END}{AFTER}"), 1)
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| {
            if path.is_dir() {
                files_below(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

/// The functions that a file exports.
fn functions(source: &str) -> impl Iterator<Item = &str> {
    let starts = source.split("extern \"C\" fn ").skip(1);
    starts.filter_map(|start| start.split_once('(').map(|(name, _)| name))
}

/// The constants of a file that have a kind, and the kind.
fn constants(source: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = source.lines();
    let constants = lines.filter_map(|line| line.strip_prefix("pub const "));
    constants.filter_map(|constant| {
        let (name, rest) = constant.split_once(": ")?;
        let (kind, _) = rest.split_once(' ')?;
        kind.starts_with("mcandle_").then_some((name, kind))
    })
}

fn first_sentence(source: &str) -> String {
    let lines = source.lines().map_while(|line| line.strip_prefix("//!"));
    let text: Vec<&str> = lines.map(str::trim).collect();
    let text = text.join(" ");
    let (sentence, _) = text.split_once('.').expect("a sentence");
    sentence.to_owned()
}
