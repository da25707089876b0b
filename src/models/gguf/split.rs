//! Models in several GGUF files.
//!
//! The first file has the metadata, and all are numbered in their names, from `-00001-of-00003.gguf`
//! on, which is how the others are found beside it.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::models::gguf::file::GgufFile;

const COUNT_KEY: &str = "split.count";
const NUMBER_KEY: &str = "split.no";
const TENSORS_KEY: &str = "split.tensors.count";

/// Opens a file and, if it is the first of several, the others with it.
///
/// # Errors
///
/// Those of [`GgufFile::open`] for each file, [`Error::InvalidConfig`] if the numbers in the files are
/// not those of their names, [`Error::InvalidFormat`] if a tensor is in two files, or the name of the
/// file does not say which part it is.
pub(super) fn open_with_parts(path: &Path) -> Result<GgufFile> {
    let mut first = GgufFile::open(path)?;
    let count = match first.unsigned(COUNT_KEY)? {
        None | Some(0 | 1) => return Ok(first),
        Some(count) => count,
    };
    check(&first, NUMBER_KEY, 0, "opening a model by its first part")?;
    for number in 1..count {
        let part = GgufFile::open(&part_path(path, number, count)?)?;
        check(&part, COUNT_KEY, count, "as in the first part")?;
        check(&part, NUMBER_KEY, number, "as in the name of the file")?;
        first.add_part(part)?;
    }
    let tensors = first.tensor_names().count() as u64;
    check(&first, TENSORS_KEY, tensors, "the tensors of all parts")?;
    Ok(first)
}

/// Whether the name of a file is that of a part of a model, but not of the first.
pub(crate) fn is_later_part(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let number = name.and_then(|name| {
        let (stem, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (_, number) = stem.rsplit_once('-')?;
        count.parse::<u32>().ok()?;
        number.parse::<u32>().ok()
    });
    number.is_some_and(|number| number > 1)
}

/// Checks that the value of a key is what follows from other things.
fn check(file: &GgufFile, key: &str, expected: u64, why: &str) -> Result<()> {
    if file.unsigned(key)? == Some(expected) {
        Ok(())
    } else {
        Err(file.invalid(key, format!("{expected}, {why}")))
    }
}

/// The path of a part, given the path of the first and the number, from 0.
fn part_path(first: &Path, number: u64, count: u64) -> Result<PathBuf> {
    let suffix = |number: u64| format!("-{number:05}-of-{count:05}.gguf");
    let name = first.file_name().and_then(|name| name.to_str());
    let stem = name.and_then(|name| name.strip_suffix(&suffix(1)));
    let stem = stem.ok_or_else(|| {
        let expected = suffix(1);
        Error::format(
            first,
            format!(
                "the file is one of {count}; expected a name that ends in `{expected}`, to find the \
                 others by"
            ),
        )
    })?;
    Ok(first.with_file_name(format!("{stem}{}", suffix(number + 1))))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Writer, encoded, fixture, i32};
    use super::*;
    use crate::models::GgufCheckpoint;

    const NAMES: [&str; 3] = [
        "m-00001-of-00003.gguf",
        "m-00002-of-00003.gguf",
        "m-00003-of-00003.gguf",
    ];

    fn u16(number: u16) -> super::super::testing::Encoded {
        encoded(2, number.to_le_bytes())
    }

    /// The fixture in three files, of which the first has no tensors.
    fn parts() -> [Writer; 3] {
        let whole = fixture("llama_plain");
        let numbered = |writer: Writer, number: u16| {
            let writer = writer.with(NUMBER_KEY, u16(number));
            writer.with(COUNT_KEY, u16(3)).with(TENSORS_KEY, i32(21))
        };
        let part = |number: u16| {
            let mut part = numbered(Writer::new("llama"), number);
            for (index, entry) in whole.tensors.iter().enumerate() {
                if index % 2 == usize::from(number - 1) {
                    let shape: Vec<_> = entry.dims.iter().rev().collect();
                    let shape = shape
                        .into_iter()
                        .map(|&size| usize::try_from(size).unwrap());
                    let shape: Vec<_> = shape.collect();
                    let start = usize::try_from(entry.offset).unwrap();
                    let end = start + 4 * shape.iter().product::<usize>();
                    part.add(&entry.name, &shape, 0, &whole.data[start..end]);
                }
            }
            part
        };
        let mut first = numbered(whole.clone(), 0);
        first.tensors.clear();
        first.data.clear();
        [first, part(1), part(2)]
    }

    /// The model in these files, or the error without the directory in it.
    fn open(
        parts: &[Writer],
        names: &[&str],
        first: &str,
    ) -> std::result::Result<GgufCheckpoint, String> {
        let dir = tempfile::tempdir().unwrap();
        for (part, name) in parts.iter().zip(names) {
            std::fs::write(dir.path().join(name), part.bytes()).unwrap();
        }
        let opened = GgufCheckpoint::open(&dir.path().join(first));
        let prefix = format!("{}/", dir.path().display());
        opened.map_err(|error| error.to_string().replace(&prefix, ""))
    }

    #[test]
    fn a_model_in_parts_is_the_whole() {
        let whole = fixture("llama_plain").write();
        let whole = GgufCheckpoint::open(whole.path()).unwrap();
        let parts = open(&parts(), &NAMES, NAMES[0]).unwrap();
        assert_eq!(parts.config(), whole.config());
        let specs = whole.config().tensors();
        assert_eq!(specs.len(), 21);
        parts.validate(&specs).unwrap();
        for spec in specs {
            let name = &spec.name;
            assert_eq!(
                parts.bytes(name).unwrap(),
                whole.bytes(name).unwrap(),
                "{name}"
            );
        }
    }

    #[test]
    fn parts_that_do_not_belong_together_are_named() {
        let all = parts();
        let message = |parts: &[Writer], names: &[&str]| open(parts, names, names[0]).unwrap_err();
        let found = message(&all[..2], &NAMES);
        assert!(
            found.starts_with(&format!("{}: no such file", NAMES[2])),
            "{found}"
        );
        let found = open(&all, &NAMES, NAMES[1]).unwrap_err();
        let expected = format!("{}: `split.no` is 1; expected 0, opening", NAMES[1]);
        assert!(found.starts_with(&expected), "{found}");
        let found = message(&all, &["m.gguf"]);
        assert!(found.contains("ends in `-00001-of-00003.gguf`"), "{found}");
        let swapped = [all[0].clone(), all[2].clone(), all[1].clone()];
        let found = message(&swapped, &NAMES);
        assert!(
            found.contains("`split.no` is 2; expected 1, as in the name"),
            "{found}"
        );
        let [first, second, third] = all;
        let other = second.clone().with(COUNT_KEY, u16(4));
        let found = message(&[first.clone(), other, third.clone()], &NAMES);
        assert!(
            found.contains("`split.count` is 4; expected 3, as in the first"),
            "{found}"
        );
        let again = second.clone().with(NUMBER_KEY, u16(2));
        let found = message(&[first.clone(), second.clone(), again], &NAMES);
        assert!(found.contains("is in another part, too"), "{found}");
        let fewer = first.with(TENSORS_KEY, i32(20));
        let found = message(&[fewer, second, third], &NAMES);
        assert!(
            found.contains("is 20; expected 21, the tensors of all parts"),
            "{found}"
        );
    }
}
