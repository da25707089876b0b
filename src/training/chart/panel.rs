//! Panels and what is in them: axes, lines, dots, texts.

use super::axis::Axis;
use super::series::{Points, thinned};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Coordinates of the picture are whole numbers; this many of them make a pixel, so that lines of
/// little slope are no stairs.
pub(super) const SCALE: i32 = 4;

// In pixels.
pub(super) const DOT: i32 = 3;
pub(super) const RING: i32 = 7;
/// Left of a panel, for the name and numbers of its axis.
pub(super) const LEFT: i32 = 84;
pub(super) const RIGHT: i32 = 32;
const BOTTOM: i32 = 52;
/// Between a name and the edge of the picture.
const EDGE: i32 = 12;
/// Under the upper panel.
const GAP: i32 = 16;

/// The most points of a line.
pub(super) const LIMIT: usize = 1000;

const FONT: &str = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif";

// The colours of Okabe and Ito, which colour-blind readers tell apart; the green is a bit darker.
pub(super) const BLUE: RGBColor = RGBColor(0, 114, 178);
pub(super) const VERMILION: RGBColor = RGBColor(213, 94, 0);
pub(super) const GREEN: RGBColor = RGBColor(0, 128, 96);
pub(super) const INK: RGBColor = RGBColor(34, 34, 34);
const FRAME: RGBColor = RGBColor(150, 150, 150);
const GRID: RGBColor = RGBColor(230, 230, 230);

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(super) type Panel<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<Axis, Axis>>;
pub(super) type Drawn<T = ()> = std::result::Result<T, DrawingAreaErrorKind<std::io::Error>>;

pub(super) fn scaled(pixels: i32) -> i32 {
    SCALE * pixels
}

pub(super) fn bold(color: RGBColor) -> ShapeStyle {
    color.stroke_width(2 * SCALE.unsigned_abs())
}

pub(super) fn pale(color: RGBColor) -> ShapeStyle {
    color.mix(0.4).stroke_width(SCALE.unsigned_abs() + 1)
}

/// Text of a size in pixels.
pub(super) fn style(size: i32) -> TextStyle<'static> {
    // What plotters divides by, when it writes a size.
    let size = 1.24 * f64::from(scaled(size));
    TextStyle::from((FONT, size).into_font()).color(&INK)
}

/// The most pixels that a text takes: no common sans-serif font has wider letters.
pub(super) fn width(text: &str, size: i32) -> i32 {
    let hundredths = |letter: char| match letter {
        'f' | 'i' | 'j' | 'l' | 'r' | 't' | ' ' | '.' | ',' | ':' => 42,
        'm' | 'w' | 'M' | 'W' => 100,
        letter if letter.is_ascii() => 65,
        _ => 100,
    };
    text.chars().map(hundredths).sum::<i32>() * size / 100
}

/// The beginning of a text that is too long, without what XML does not allow.
pub(super) fn fitting(text: &str, most: i32, size: i32) -> String {
    let allowed = |c: char| {
        if c.is_control() || matches!(c, '\u{FFFE}' | '\u{FFFF}') {
            ' '
        } else {
            c
        }
    };
    let mut text: String = text.chars().map(allowed).take(500).collect();
    while width(&text, size) > most {
        text.pop();
        text.pop();
        text.push('…');
    }
    text
}

/// Writes a text whose middle is at a height.
pub(super) fn write(area: &Area, text: &str, size: i32, (x, y): (i32, i32), from: HPos) -> Drawn {
    let style = style(size).pos(Pos::new(from, VPos::Center));
    area.draw_text(text, &style, (scaled(x), scaled(y)))
}

/// Axes and grid; the steps are written under the lower panel only.
pub(super) fn panel<'a>(
    area: &Area<'a>,
    steps: &Axis,
    values: &Axis,
    name: &str,
    lower: bool,
) -> Drawn<Panel<'a>> {
    let mut builder = ChartBuilder::on(area);
    builder
        .margin_right(scaled(RIGHT))
        .margin_left(scaled(EDGE))
        .set_label_area_size(LabelAreaPosition::Left, scaled(LEFT - EDGE));
    if lower {
        builder
            .margin_bottom(scaled(EDGE))
            .set_label_area_size(LabelAreaPosition::Bottom, scaled(BOTTOM - EDGE));
    } else {
        builder.margin_bottom(scaled(GAP));
    }
    let mut panel = builder.build_cartesian_2d(steps.clone(), values.clone())?;
    let line = SCALE.unsigned_abs();
    panel
        .configure_mesh()
        .bold_line_style(GRID.stroke_width(line))
        .axis_style(FRAME.stroke_width(line))
        .set_all_tick_mark_size(scaled(4))
        .label_style(style(12))
        .axis_desc_style(style(13))
        .x_desc("step")
        .y_desc(name)
        .draw()?;
    Ok(panel)
}

pub(super) fn draw_line(panel: &mut Panel, points: &Points, style: ShapeStyle) -> Drawn {
    panel.draw_series(LineSeries::new(thinned(points, LIMIT), style))?;
    Ok(())
}

pub(super) fn draw_dots(panel: &mut Panel, points: &Points, color: RGBColor) -> Drawn {
    let dot = |point: &(f64, f64)| Circle::new(*point, scaled(DOT), color.filled());
    panel.draw_series(points.iter().map(dot))?;
    Ok(())
}
