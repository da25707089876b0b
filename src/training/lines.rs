//! The lines of a file, in bounded memory.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use super::record::MAX_LINE_BYTES;
use crate::{Error, Result};

/// A line of a file, or a row that the caller gives as text.
#[derive(Debug)]
pub(super) struct Line {
    /// Counted from 1.
    pub number: usize,
    /// The byte at which it begins.
    pub offset: u64,
    /// With its line break. Of a line that is too long, the first bytes and one more than allowed.
    pub bytes: Vec<u8>,
}

/// Reads lines.
pub(super) struct Lines<'a, R: Read> {
    reader: BufReader<R>,
    path: &'a Path,
    number: usize,
    offset: u64,
}

impl<'a, R: Read> Lines<'a, R> {
    /// The lines of a reader; `path` is for errors.
    pub(super) fn new(reader: R, path: &'a Path) -> Self {
        Self {
            reader: BufReader::new(reader),
            path,
            number: 0,
            offset: 0,
        }
    }

    fn read(&mut self) -> std::io::Result<Option<Line>> {
        let mut bytes = Vec::new();
        let mut limited = self.reader.by_ref().take(MAX_LINE_BYTES + 1);
        let mut count = limited.read_until(b'\n', &mut bytes)? as u64;
        if count == 0 {
            return Ok(None);
        }
        if count > MAX_LINE_BYTES && !bytes.ends_with(b"\n") {
            count += self.reader.skip_until(b'\n')? as u64;
        }
        self.number += 1;
        let offset = self.offset;
        self.offset += count;
        Ok(Some(Line {
            number: self.number,
            offset,
            bytes,
        }))
    }
}

impl<R: Read> Iterator for Lines<'_, R> {
    type Item = Result<Line>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = self.read().transpose()?;
        Some(line.map_err(|source| Error::io(self.path, "a .jsonl file", source)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_know_their_place() {
        let lines = Lines::new(&b"ab\n\ncde\r\nf"[..], Path::new("x"));
        let lines: Vec<_> = lines.map(Result::unwrap).collect();
        let places: Vec<_> = lines
            .iter()
            .map(|line| (line.number, line.offset))
            .collect();
        assert_eq!(places, [(1, 0), (2, 3), (3, 4), (4, 9)]);
        assert_eq!(lines[2].bytes, b"cde\r\n");
    }

    #[test]
    fn the_rest_of_a_long_line_is_passed_over() {
        let long = std::iter::repeat_n(b'x', usize::try_from(MAX_LINE_BYTES).unwrap() + 9);
        let text: Vec<u8> = long.chain(*b"\nnext").collect();
        let lines: Vec<_> = Lines::new(&text[..], Path::new("x"))
            .map(Result::unwrap)
            .collect();
        assert_eq!(lines[0].bytes.len() as u64, MAX_LINE_BYTES + 1);
        assert_eq!(lines[1].bytes, b"next");
        assert_eq!(lines[1].offset, MAX_LINE_BYTES + 10);
        assert_eq!(lines.len(), 2);
    }
}
