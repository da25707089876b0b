//! Pictures of many runs, as a reader of SVG sees them.

use super::panel::LIMIT;
use super::*;

fn step(step: usize, loss: f64, learning_rate: f64) -> MetricPoint {
    MetricPoint::Step {
        step,
        loss,
        learning_rate,
    }
}

/// A falling loss with noise, a schedule with warm-up, and ten evaluations.
fn run(steps: u32) -> Vec<MetricPoint> {
    let mut points = vec![];
    for n in 0..=steps {
        let part = f64::from(n) / f64::from(steps);
        let noise = 0.15 * (f64::from(n) * 12.9898).sin();
        if n > 0 {
            let rate = 2e-4 * (part / 0.05).min(1.0) * (1.0 + (3.1 * part).cos()) / 2.0;
            let loss = 1.1 + 1.4 * (-6.0 * part).exp() + noise;
            points.push(step(n as usize, loss, rate));
        }
        if n % (steps / 10).max(1) == 0 {
            let loss = 1.2 + 1.4 * (-6.0 * part).exp() + 0.3 * part * part;
            points.push(MetricPoint::Evaluation {
                step: n as usize,
                loss,
            });
        }
    }
    points
}

fn svg(points: &[MetricPoint], title: &str) -> String {
    Chart::new(points).svg(title).unwrap()
}

/// The attributes of the elements of a kind, of which each has its own line.
fn elements<'a>(svg: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!("<{name} ");
    svg.lines()
        .filter(|line| line.starts_with(&start))
        .collect()
}

fn attribute<'a>(element: &'a str, name: &str) -> &'a str {
    let start = format!(" {name}=\"");
    let value = &element[element.find(&start).unwrap() + start.len()..];
    &value[..value.find('"').unwrap()]
}

fn value(element: &str, name: &str) -> f64 {
    attribute(element, name).parse().unwrap()
}

fn labels(svg: &str) -> Vec<&str> {
    let mut lines = svg.lines();
    let mut labels = vec![];
    while let Some(line) = lines.next() {
        if line.starts_with("<text ") {
            labels.push(lines.next().unwrap());
        }
    }
    labels
}

fn unescaped(label: &str) -> String {
    let entities = [
        ("lt", "<"),
        ("gt", ">"),
        ("quot", "\""),
        ("apos", "'"),
        ("amp", "&"),
    ];
    entities
        .iter()
        .fold(label.to_owned(), |label, (name, letter)| {
            label.replace(&format!("&{name};"), letter)
        })
}

fn colored(color: RGBColor) -> String {
    format!("stroke=\"#{:02X}{:02X}{:02X}\"", color.0, color.1, color.2)
}

/// The points of the lines of a colour, longest first.
fn lines(svg: &str, color: RGBColor) -> Vec<Vec<(f64, f64)>> {
    let color = colored(color);
    let lines = elements(svg, "polyline").into_iter();
    let mut lines: Vec<Vec<_>> = lines
        .filter(|line| line.contains(&color))
        .map(|line| {
            let points = attribute(line, "points").split_whitespace();
            points
                .map(|point| {
                    let (x, y) = point.split_once(',').unwrap();
                    (x.parse().unwrap(), y.parse().unwrap())
                })
                .collect()
        })
        .collect();
    lines.sort_by_key(|line| std::cmp::Reverse(line.len()));
    lines
}

/// Where a text is: left, top, right, bottom.
fn boxed(element: &str, label: &str) -> [f64; 4] {
    let size = value(element, "font-size");
    let (x, y) = (value(element, "x"), value(element, "y"));
    let wide = f64::from(width(label, 100)) * size / 100.0;
    if element.contains("rotate(") {
        return [x, y - wide / 2.0, x + size, y + wide / 2.0];
    }
    let left = match attribute(element, "text-anchor") {
        "start" => x,
        "middle" => x - wide / 2.0,
        _ => x - wide,
    };
    let top = match attribute(element, "dy") {
        "0.5ex" => y - size / 2.0,
        "0.76em" => y,
        _ => y - size,
    };
    [left, top, left + wide, top + size]
}

/// A document whose tags close, without numbers that are none, whose texts are inside and apart.
fn check(svg: &str) {
    let mut open = vec![];
    for line in svg.lines() {
        if let Some(name) = line.strip_prefix("</") {
            assert_eq!(open.pop(), Some(name.trim_end_matches('>')), "{line}");
        } else if let Some(tag) = line.strip_prefix('<') {
            assert!(
                tag.ends_with('>') && tag.matches('<').count() == 0,
                "{line}"
            );
            assert_eq!(tag.matches('"').count() % 2, 0, "{line}");
            if !tag.ends_with("/>") {
                open.push(tag.split_whitespace().next().unwrap());
            }
        } else {
            assert!(!line.contains(['<', '>']), "{line}");
        }
        for part in line.split('&').skip(1) {
            let entity = part.split_once(';').unwrap().0;
            assert!(
                ["lt", "gt", "amp", "quot", "apos"].contains(&entity),
                "{line}"
            );
        }
    }
    assert!(open.is_empty(), "{open:?}");
    let numbers = svg.replace("font-family", "");
    assert!(!numbers.contains("NaN") && !numbers.contains("inf"));
    let texts = elements(svg, "text");
    let boxes: Vec<_> = texts
        .iter()
        .zip(labels(svg))
        .map(|(element, label)| (boxed(element, &unescaped(label)), label))
        .collect();
    for (index, ([left, top, right, bottom], label)) in boxes.iter().enumerate() {
        assert!(!label.is_empty());
        let [width, height] = [WIDTH, HEIGHT].map(|size| f64::from(scaled(size)));
        assert!(
            *left >= 0.0 && *right <= width,
            "{label}: {left} to {right}"
        );
        assert!(
            *top >= 0.0 && *bottom <= height,
            "{label}: {top} to {bottom}"
        );
        for (other, name) in &boxes[..index] {
            let apart =
                *right < other[0] || other[2] < *left || *bottom < other[1] || other[3] < *top;
            assert!(apart, "`{label}` lies on `{name}`");
        }
    }
    for name in ["points", "x", "y", "cx", "cy"] {
        for element in svg
            .lines()
            .filter(|line| line.contains(&format!(" {name}=\"")))
        {
            for number in attribute(element, name).split([' ', ',']) {
                let number: f64 = if number.is_empty() {
                    0.0
                } else {
                    number.parse().unwrap()
                };
                assert!(
                    (0.0..f64::from(scaled(WIDTH)) + 1.0).contains(&number),
                    "{element}"
                );
            }
        }
    }
}

#[test]
fn every_length_of_a_run_is_drawn() {
    for steps in [1, 2, 3, 10, 19, 20, 250, 1000, 100_000] {
        let svg = svg(&run(steps), &format!("{steps} steps"));
        check(&svg);
        let lines = [BLUE, VERMILION, GREEN].map(|color| lines(&svg, color));
        let (count, last) = (steps as usize, lines[0].len());
        // Besides those of the legend.
        assert_eq!(last, if count < FEW { 2 } else { 4 }, "{steps}");
        assert!(lines.iter().flatten().all(|line| line.len() <= LIMIT));
        if count <= LIMIT {
            assert_eq!(lines[0][0].len().max(2), count.max(2));
            assert_eq!(lines[2][0].len().max(2), count.max(2));
        } else {
            assert!(lines[0][1].len() > LIMIT / 2, "smoothed and not");
        }
        for name in [
            "training loss",
            "validation loss",
            "learning rate",
            "step",
            "loss",
        ] {
            assert!(labels(&svg).contains(&name), "{name}: {:?}", labels(&svg));
        }
        assert!(svg.len() < 120_000, "{}", svg.len());
    }
}

#[test]
fn a_falling_loss_falls_in_the_picture() {
    let points: Vec<_> = (1..=10_u32)
        .map(|n| step(n as usize, 4.0 - 0.3 * f64::from(n), 1e-5 * f64::from(n)))
        .collect();
    let svg = svg(&points, "straight");
    let [losses, rates] = [BLUE, GREEN].map(|color| lines(&svg, color).remove(0));
    assert!(
        losses.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1),
        "{losses:?}"
    );
    assert!(
        rates.is_sorted_by(|a, b| a.0 < b.0 && a.1 > b.1),
        "{rates:?}"
    );
    let steps = |line: &[(f64, f64)]| line.iter().map(|point| point.0).collect::<Vec<_>>();
    assert_eq!(steps(&losses), steps(&rates));
    assert!(labels(&svg).contains(&"1e-4"), "{:?}", labels(&svg));
}

#[test]
fn the_lowest_evaluation_is_ringed_and_named() {
    let evaluations = [(0, 3.0), (10, 1.25), (20, 1.25), (30, 2.0)];
    let points: Vec<_> = evaluations
        .iter()
        .map(|(step, loss)| MetricPoint::Evaluation {
            step: *step,
            loss: *loss,
        })
        .collect();
    let svg = svg(&points, "only evaluations");
    check(&svg);
    assert!(labels(&svg).contains(&"best: 1.250 at step 10"));
    let circles = elements(&svg, "circle");
    let ring = circles
        .iter()
        .rfind(|circle| circle.contains(&colored(INK)));
    let dots: Vec<_> = circles
        .iter()
        .filter(|circle| circle.contains("fill=\"#D55E00\""))
        .collect();
    // The first is in the legend.
    assert_eq!(dots.len(), 5);
    for name in ["cx", "cy"] {
        assert_eq!(attribute(ring.unwrap(), name), attribute(dots[2], name));
    }
    assert!(lines(&svg, GREEN).iter().all(|line| line.len() < 2));
}

#[test]
fn strange_losses_are_drawn() {
    let equal: Vec<_> = (1..=50).map(|n| step(n, 2.0, 1e-4)).collect();
    check(&svg(&equal, "equal"));
    let zero: Vec<_> = (1..=50).map(|n| step(n, 0.0, 0.0)).collect();
    check(&svg(&zero, "zero"));
    let negative: Vec<_> = (1..=50_u32)
        .map(|n| step(n as usize, -f64::from(n), 1e-4))
        .collect();
    check(&svg(&negative, "negative"));
    let tiny: Vec<_> = (1..=50_u32)
        .map(|n| step(n as usize, 1e-6 / f64::from(n), 3e-12))
        .collect();
    check(&svg(&tiny, "tiny"));
    check(&svg(&[], "empty"));

    let mut holes = run(100);
    holes[30] = step(28, f64::NAN, f64::NAN);
    holes.push(step(101, f64::INFINITY, 1e-4));
    holes.push(step(102, f64::MAX, 1e-4));
    let holes = svg(&holes, "holes");
    check(&holes);
    let blue = lines(&holes, BLUE);
    assert_eq!((blue[0].len(), blue[1].len()), (99, 99));
    assert!(!holes.contains("lies above"));

    let mut high = run(100);
    high[1] = step(1, 1.5e6, 1e-6);
    let high = svg(&high, "high");
    check(&high);
    assert!(labels(&high).contains(&"the highest loss, 1,500,000, lies above"));
    // What is left is not a flat line.
    let raw = &lines(&high, BLUE)[0][20..];
    let lowest = raw.iter().map(|point| point.1).fold(0.0, f64::max);
    let highest = raw.iter().map(|point| point.1).fold(f64::MAX, f64::min);
    assert!(
        lowest - highest > f64::from(scaled(30)),
        "{lowest} {highest}"
    );
}

#[test]
fn titles_are_cut_and_escaped() {
    let title = "<b> & \"x\"\u{0}\u{ffff} 'y' ".repeat(20);
    let svg = svg(&run(10), &title);
    check(&svg);
    let title = labels(&svg)[0];
    assert!(
        title.starts_with("&lt;b&gt; &amp; &quot;x&quot;   &apos;y&apos; "),
        "{title}"
    );
    assert!(title.ends_with('…'), "{title}");
}

#[test]
fn the_file_is_replaced_and_errors_name_it() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("loss.svg");
    for steps in [10, 1] {
        draw_loss(&path, &run(steps), "x").unwrap();
        let found = std::fs::read_to_string(&path).unwrap();
        assert_eq!(found, Chart::new(&run(steps)).svg("x").unwrap());
    }
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    let error = draw_loss(&path.join("below"), &run(1), "x").unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    assert!(error.to_string().contains("loss.svg"), "{error}");
}
