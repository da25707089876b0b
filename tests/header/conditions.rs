//! Declarations under one condition, which cbindgen writes for each of them anew.

/// The header with neighbours of the same condition under one `#if`.
pub fn joined(header: &str) -> String {
    let mut lines: Vec<&str> = Vec::new();
    let mut open = Vec::new();
    // The last condition that ended, and the line of its end.
    let mut ended: Option<(&str, usize)> = None;
    for line in header.lines() {
        if line.starts_with("#if") {
            open.push(line);
            let same = ended.take().filter(|(condition, _)| *condition == line);
            if let Some((_, end)) = same {
                lines.remove(end);
                continue;
            }
        } else if line.starts_with("#el") {
            // What ends then is not the condition that began.
            open.pop();
            open.push(line);
        } else if line.starts_with("#endif") {
            ended = open.pop().map(|condition| (condition, lines.len()));
        } else if !line.is_empty() {
            ended = None;
        }
        lines.push(line);
    }
    lines.join("\n") + "\n"
}

#[test]
fn neighbours_of_one_condition_are_joined() {
    let apart = "#if A\n1\n#endif\n\n#if A\n2\n#endif\n\n#if A\n3\n#endif\n";
    assert_eq!(joined(apart), "#if A\n1\n\n2\n\n3\n#endif\n");
    for other in [
        "#if A\n1\n#endif\n\n#if B\n2\n#endif\n",
        "#if A\n1\n#endif\n\nx\n\n#if A\n2\n#endif\n",
        "#if B\n#if A\n1\n#endif\n#endif\n\n#if A\n2\n#endif\n",
        "#if A\n1\n#elif C\n2\n#endif\n\n#if A\n3\n#endif\n",
    ] {
        assert_eq!(joined(other), other);
    }
}
