//! The sections of the functions: one for each file of the source, by its first sentence.

use crate::parse::Item;
use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Headings, by the function that they stand before.
pub struct Sections {
    headings: HashMap<String, String>,
}

impl Sections {
    /// Those of the files in a folder and in the folders below.
    pub fn of(folder: impl AsRef<Path>, items: &[Item]) -> Self {
        let mut files = HashMap::new();
        for path in files_below(folder.as_ref()) {
            let source = fs::read_to_string(&path).unwrap();
            for name in functions(&source) {
                let name = name.to_owned();
                let id = path.file_stem().unwrap().to_string_lossy().into_owned();
                files.insert(name, (id, title(&source)));
            }
        }
        let mut headings = HashMap::new();
        let mut last = "";
        for item in items.iter().filter(|item| item.is_function()) {
            let (id, title) = &files[&item.name];
            if id != last {
                let end = if last.is_empty() { "" } else { END };
                let start = format!("/**\n * @defgroup {id} {title}\n * @{{\n */\n\n");
                headings.insert(item.name.clone(), format!("{end}{start}"));
                last = id;
            }
        }
        Self { headings }
    }

    /// Copies the lines before an item, with its heading if there is one: before what belongs to the
    /// item, such as its comment, and behind what belongs to the one before.
    pub fn copy(&self, lines: &[&str], item: &Item, to: &mut String) {
        let heading = self.headings.get(&item.name);
        let gap = lines.iter().rposition(|line| line.is_empty());
        for (index, line) in lines.iter().enumerate() {
            writeln!(to, "{line}").unwrap();
            if let Some(heading) = heading.filter(|_| gap == Some(index)) {
                to.push_str(heading);
            }
        }
    }

    /// The header with the end of the last section.
    pub fn end(header: &str) -> String {
        const AFTER: &str = "#ifdef __cplusplus\n}";
        header.replacen(AFTER, &format!("{END}{AFTER}"), 1)
    }
}

const END: &str = "/** @} */\n\n";

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

/// The first sentence of a file.
fn title(source: &str) -> String {
    let lines = source.lines().map_while(|line| line.strip_prefix("//!"));
    let text: Vec<&str> = lines.map(str::trim).collect();
    let text = text.join(" ");
    let (title, _) = text.split_once('.').expect("a sentence");
    title.to_owned()
}
