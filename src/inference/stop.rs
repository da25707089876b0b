//! Stop strings, found in text that comes in pieces.

/// Looks for the first stop string in a text, and holds back what may become one.
///
/// How the text is cut into pieces makes no difference: the stop string that is complete first ends
/// the text, and of those that are complete at the same place the longest.
#[derive(Debug, Clone)]
pub(super) struct StopMatcher {
    stop: Vec<String>,
    /// The end of the text so far that may be the start of a stop string.
    held: String,
}

/// What became of a piece of text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Matched {
    /// The text that can be given out.
    pub text: String,
    /// The stop string that ended it, by its index.
    pub stop: Option<usize>,
}

impl StopMatcher {
    pub fn new(stop: &[String]) -> Self {
        Self {
            stop: stop.to_vec(),
            held: String::new(),
        }
    }

    /// Takes the next piece of text.
    pub fn push(&mut self, piece: &str) -> Matched {
        self.held.push_str(piece);
        let found = self.stop.iter().enumerate().filter_map(|(index, stop)| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start, index))
        });
        if let Some((_, start, index)) = found.min() {
            self.held.truncate(start);
            return Matched {
                text: std::mem::take(&mut self.held),
                stop: Some(index),
            };
        }
        let mut starts = self.held.char_indices().map(|(start, _)| start);
        let hold = starts.find(|&start| {
            let rest = &self.held[start..];
            self.stop.iter().any(|stop| stop.starts_with(rest))
        });
        let rest = self.held.split_off(hold.unwrap_or(self.held.len()));
        Matched {
            text: std::mem::replace(&mut self.held, rest),
            stop: None,
        }
    }

    /// The text that was held back, at the end.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text before the stop string, and the stop string, of pieces of `size` characters.
    fn run(stop: &[&str], text: &str, size: usize) -> (String, Option<usize>) {
        let stop: Vec<String> = stop.iter().map(|&stop| stop.to_owned()).collect();
        let mut matcher = StopMatcher::new(&stop);
        let mut given = String::new();
        let characters: Vec<char> = text.chars().collect();
        for piece in characters.chunks(size) {
            let Matched { text, stop: found } = matcher.push(&piece.iter().collect::<String>());
            given.push_str(&text);
            if found.is_some() {
                return (given, found);
            }
            let longest = stop.iter().map(String::len).max().unwrap_or(0);
            assert!(matcher.held.len() < longest.max(1));
        }
        given.push_str(&matcher.finish());
        (given, None)
    }

    #[test]
    fn the_cut_into_pieces_makes_no_difference() {
        for (stop, text, expected) in [
            (&["\n\n"][..], "one\ntwo\n\nthree", ("one\ntwo", Some(0))),
            (&["END"], "EEND", ("E", Some(0))),
            (&["aab"], "aaab", ("a", Some(0))),
            (&["abc", "b"], "xabc", ("xa", Some(1))),
            (&["c", "abc"], "xabc", ("x", Some(1))),
            (&["🦀é"], "a🦀🦀é", ("a🦀", Some(0))),
            (&["stop"], "no end: sto", ("no end: sto", None)),
            (&[], "all of it", ("all of it", None)),
        ] {
            for size in 1..6 {
                let (text, found) = run(stop, text, size);
                assert_eq!((text.as_str(), found), expected, "{stop:?} by {size}");
            }
        }
    }

    #[test]
    fn only_what_may_become_a_stop_string_is_held_back() {
        let mut matcher = StopMatcher::new(&["</s>".to_owned()]);
        assert_eq!(matcher.push("a < b").text, "a < b");
        assert_eq!(matcher.push("<").text, "");
        assert_eq!(matcher.push("b>").text, "<b>");
    }
}
