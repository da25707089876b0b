//! Where the files of a ZIP archive lie, one whose files are not compressed.
//!
//! Lengths and places are held against the bytes that there are; the list of files is read once, from
//! the one place that the end of the archive names.

use std::collections::HashMap;
use std::ops::Range;

const FILE: &[u8] = b"PK\x03\x04";
const LISTED: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";
const LARGE_END: &[u8] = b"PK\x06\x06";
const PLACE_OF_LARGE_END: &[u8] = b"PK\x06\x07";
/// The lengths of their fixed parts.
const FILE_BYTES: usize = 30;
const LISTED_BYTES: usize = 46;
const END_BYTES: usize = 22;
const PLACE_BYTES: usize = 20;
/// The longest comment that may follow the end.
const MAX_COMMENT: usize = u16::MAX as usize;
/// The largest number of files that is believed.
const MAX_FILES: u64 = 1 << 20;
/// The kind of further field that has the numbers that 32 bits cannot hold.
const LARGE_NUMBERS: u16 = 1;

/// What is wrong with an archive.
type Reason = String;

/// The files of an archive with these bytes by name, each with its place.
pub(super) fn files(bytes: &[u8]) -> Result<HashMap<String, Range<usize>>, Reason> {
    if !bytes.starts_with(FILE) {
        return Err("this is no ZIP archive; expected a file of torch.save".to_owned());
    }
    let (list, count) = list(bytes).ok_or(
        "truncated: the ZIP archive has no end; expected one behind the list of its files",
    )?;
    if count > MAX_FILES {
        return Err(format!(
            "the ZIP archive lists {count} files; expected at most {MAX_FILES}"
        ));
    }
    let (mut files, mut places) = (HashMap::new(), vec![]);
    let mut at = list.start;
    for number in 0..count {
        let (file, next) = listed(bytes, at)
            .ok_or_else(|| format!("file {number} of the ZIP archive is not in its list"))?;
        at = next;
        let Listed { name, method, .. } = &file;
        if *method != 0 || file.encrypted || file.stored_size != file.size {
            let reason = format!("`{name}` is compressed or encrypted; expected it as it is");
            return Err(reason);
        }
        let place = place(bytes, &file, list.start).ok_or_else(|| {
            format!("truncated: `{name}` does not lie between the start of the file and its list")
        })?;
        places.push((file.header, place.end));
        if files.insert(file.name.clone(), place).is_some() {
            return Err(format!("lists `{name}` twice; expected each file once"));
        }
    }
    if at != list.end {
        let reason = "the list of the files in the ZIP archive does not end where the archive says";
        return Err(reason.to_owned());
    }
    places.sort_unstable();
    let apart = |pair: &[(usize, usize)]| matches!(pair, [(_, end), (start, _)] if end <= start);
    if places.windows(2).all(apart) {
        Ok(files)
    } else {
        Err("has files that overlap; expected each byte in one file".to_owned())
    }
}

/// Where the list of files lies, and how many there are.
fn list(bytes: &[u8]) -> Option<(Range<usize>, u64)> {
    let last = bytes.len().checked_sub(END_BYTES)?;
    // A comment may follow.
    let mut ends = (last.saturating_sub(MAX_COMMENT)..=last).rev();
    let end = ends.find(|&at| {
        let comment = u16_at(bytes, at + 20).map(usize::from);
        starts(bytes, at, END) && comment == Some(last - at)
    })?;
    let place = end.checked_sub(PLACE_BYTES);
    let (large, count, start) = match place {
        Some(place) if starts(bytes, place, PLACE_OF_LARGE_END) => {
            let large = usize::try_from(u64_at(bytes, place + 8)?).ok()?;
            let count = u64_at(bytes, large.checked_add(32)?)?;
            (Some(large), count, u64_at(bytes, large.checked_add(48)?)?)
        }
        _ => (
            None,
            u16_at(bytes, end + 10)?.into(),
            u32_at(bytes, end + 16)?.into(),
        ),
    };
    let start = usize::try_from(start).ok()?;
    let end = large.map_or(Some(end), |at| starts(bytes, at, LARGE_END).then_some(at))?;
    (start <= end).then_some((start..end, count))
}

/// What the list says of a file.
struct Listed {
    name: String,
    encrypted: bool,
    method: u16,
    stored_size: usize,
    size: usize,
    /// Where the header before its bytes stands.
    header: usize,
}

/// The file that is listed at a place, and where the next one is.
fn listed(bytes: &[u8], at: usize) -> Option<(Listed, usize)> {
    if !starts(bytes, at, LISTED) {
        return None;
    }
    let length = |field: usize| u16_at(bytes, at + field).map(usize::from);
    let name_end = at + LISTED_BYTES + length(28)?;
    let further_end = name_end + length(30)?;
    let name = std::str::from_utf8(bytes.get(at + LISTED_BYTES..name_end)?).ok()?;
    let mut large = large_numbers(bytes.get(name_end..further_end)?);
    // In this order where they do not fit.
    let mut number = |field: usize| match u32_at(bytes, at + field)? {
        u32::MAX => usize::try_from(large.next()?).ok(),
        number => usize::try_from(number).ok(),
    };
    let (size, stored_size, header) = (number(24)?, number(20)?, number(42)?);
    let file = Listed {
        name: name.to_owned(),
        encrypted: u16_at(bytes, at + 8)? & 1 == 1,
        method: u16_at(bytes, at + 10)?,
        stored_size,
        size,
        header,
    };
    Some((file, further_end + length(32)?))
}

/// The numbers of 64 bits in the further fields of a file.
fn large_numbers(mut fields: &[u8]) -> impl Iterator<Item = u64> {
    let mut numbers: &[[u8; 8]] = &[];
    while let (Some(kind), Some(length)) = (u16_at(fields, 0), u16_at(fields, 2)) {
        let end = 4 + usize::from(length);
        let field = fields.get(4..end).unwrap_or_default();
        if kind == LARGE_NUMBERS {
            numbers = field.as_chunks().0;
            break;
        }
        fields = fields.get(end..).unwrap_or_default();
    }
    numbers.iter().map(|number| u64::from_le_bytes(*number))
}

/// The bytes of a file, which end before the list begins.
fn place(bytes: &[u8], file: &Listed, list: usize) -> Option<Range<usize>> {
    let at = file.header;
    if !starts(bytes, at, FILE) {
        return None;
    }
    let length = |field: usize| u16_at(bytes, at + field).map(usize::from);
    let start = at + FILE_BYTES + length(26)? + length(28)?;
    let end = start.checked_add(file.size)?;
    (end <= list).then_some(start..end)
}

fn starts(bytes: &[u8], at: usize, mark: &[u8]) -> bool {
    bytes.get(at..).is_some_and(|rest| rest.starts_with(mark))
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    number(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    number(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    number(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::zip::write::SimpleFileOptions;
    use ::zip::{CompressionMethod, ZipWriter};
    use std::io::{Cursor, Write};

    /// An archive of `a` with three bytes and `b` with two, its files large if so asked.
    fn archive(large: bool, comment: &str) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(vec![]));
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        for (name, contents) in [("a", "xyz"), ("b", "uv")] {
            writer.start_file(name, options.large_file(large)).unwrap();
            writer.write_all(contents.as_bytes()).unwrap();
        }
        writer.set_comment(comment).unwrap();
        writer.finish().unwrap().into_inner()
    }

    /// Where something stands in bytes for the last time.
    fn last(bytes: &[u8], mark: &[u8]) -> usize {
        let mut found = bytes.windows(mark.len()).enumerate().rev();
        found.find(|(_, window)| *window == mark).unwrap().0
    }

    /// The same archive with the end that large archives have.
    fn with_large_end() -> Vec<u8> {
        let mut bytes = archive(false, "");
        let end = bytes.split_off(last(&bytes, END));
        let at = bytes.len() as u64;
        let (count, start) = (u64::from(end[10]), u64::from(end[16]));
        bytes.extend([LARGE_END, &44u64.to_le_bytes(), &[0; 12]].concat());
        for number in [count, count, 0, start] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(
            [
                PLACE_OF_LARGE_END,
                &[0; 4],
                &at.to_le_bytes(),
                &[1, 0, 0, 0],
            ]
            .concat(),
        );
        bytes.extend([&end[..8], &[0xff; 12], &[0; 2]].concat());
        bytes
    }

    #[test]
    fn files_lie_where_they_are_listed() {
        let whole = [
            archive(false, ""),
            archive(true, ""),
            archive(false, "PK\x05\x06, a comment that is like an end"),
            with_large_end(),
        ];
        for bytes in whole {
            let files = files(&bytes).unwrap();
            assert_eq!(files.len(), 2);
            assert_eq!(&bytes[files["a"].clone()], b"xyz");
            assert_eq!(&bytes[files["b"].clone()], b"uv");
        }
    }

    #[test]
    fn numbers_of_64_bits_stand_in_further_fields() {
        let numbers = [1u64 << 40, 7].map(u64::to_le_bytes).concat();
        let fields = [&[9, 0, 1, 0, 5, 1, 0, 16, 0][..], &numbers].concat();
        assert!(large_numbers(&fields).eq([1 << 40, 7]));
        assert_eq!(large_numbers(&fields[..12]).count(), 0);
        assert_eq!(large_numbers(&[1, 0, 0xff, 0xff, 3]).count(), 0);
    }

    #[test]
    fn archives_that_lie() {
        let small = archive(false, "");
        let large = with_large_end();
        let (end, large_end) = (last(&small, END), last(&large, LARGE_END));
        let (listed, file) = (last(&small, LISTED), last(&small, FILE));
        let first = u32::try_from(file).unwrap().to_le_bytes();
        let cases: &[(&[u8], usize, &[u8], &str)] = &[
            (
                &small,
                end + 10,
                &[0xff, 0xff],
                "file 2 of the ZIP archive is not in its list",
            ),
            (
                &small,
                end + 10,
                &[3, 0],
                "file 2 of the ZIP archive is not in its list",
            ),
            (&small, end + 10, &[1, 0], "does not end where"),
            (&small, end + 16, &[0xff; 4], "has no end"),
            (
                &small,
                end + 16,
                &[0; 4],
                "file 0 of the ZIP archive is not in its list",
            ),
            (&small, end + 20, &[1], "has no end"),
            (
                &large,
                large_end + 32,
                &[0xff; 8],
                "lists 18446744073709551615 files",
            ),
            (&large, large_end + 34, &[0x10], "lists 1048578 files"),
            (&large, large_end + 48, &[0xff; 8], "has no end"),
            (&large, large_end, b"XX", "has no end"),
            (&large, large_end + 56 + 8, &[0xff; 8], "has no end"),
            (&small, listed + 8, &[1], "`b` is compressed or encrypted"),
            (&small, listed + 10, &[8], "`b` is compressed or encrypted"),
            (&small, listed + 20, &[1], "`b` is compressed or encrypted"),
            (&small, listed + 20, &[0xfe; 8], "`b` does not lie between"),
            (
                &small,
                listed + 20,
                &[0xff; 8],
                "file 1 of the ZIP archive is not in its list",
            ),
            (
                &small,
                listed + 28,
                &[0xff; 2],
                "file 1 of the ZIP archive is not in its list",
            ),
            (&small, listed + 42, &[0xfe; 4], "`b` does not lie between"),
            (
                &small,
                listed + 42,
                &[1, 0, 0, 0],
                "`b` does not lie between",
            ),
            (&small, listed + 42, &[0; 4], "has files that overlap"),
            (&small, listed + 46, b"a", "lists `a` twice"),
            (
                &small,
                listed + 46,
                &[0xff],
                "file 1 of the ZIP archive is not in its list",
            ),
            (&small, file + 28, &[0xff; 2], "`b` does not lie between"),
            (&small, listed - 47 + 42, &first, "`a` does not lie between"),
        ];
        for (whole, at, change, expected) in cases {
            let mut bytes = whole.to_vec();
            bytes[*at..at + change.len()].copy_from_slice(change);
            let reason = files(&bytes).unwrap_err();
            assert!(reason.contains(expected), "{at}, {expected}: {reason}");
        }
        for length in 0..small.len() {
            files(&small[..length]).unwrap_err();
        }
    }
}
