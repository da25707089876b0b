//! The curve of a run's losses as a picture: `loss.svg`.

mod axis;
mod panel;
mod series;

use super::metrics::MetricPoint;
use crate::checkpoint::replace_file;
use crate::error::{Error, Result};
use axis::{Axis, number};
use panel::{
    Area, BLUE, DOT, Drawn, GREEN, INK, LEFT, RIGHT, RING, SCALE, VERMILION, bold, draw_dots,
    draw_line, fitting, pale, panel, scaled, width, write,
};
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;
use series::{Points, ceiling, smoothed};
use std::path::Path;

// In pixels. The panels lie one under the other, and share the axis of steps.
const WIDTH: i32 = 960;
const HEIGHT: i32 = 600;
const TITLE: i32 = 24;
const LEGEND: i32 = 50;
const NOTE: i32 = 66;
const HEADER: i32 = 74;
const LOSS_PANEL: i32 = 344;

/// So many points are drawn as dots, and fewer steps are not smoothed.
const FEW: usize = 20;

/// Draws the losses and the learning rate of a run as an SVG picture, in the place of an older one.
///
/// The loss of the training steps is a thin line, with a smoothed one over it where there are 20
/// steps or more; validation losses are a line with dots, the lowest in a ring; the learning rate has
/// a panel of its own below. Numbers that are not finite are left out. Where a few losses are so high
/// that the others would be a flat line, the picture ends below them and says so. Of a long run about
/// a thousand points a line are drawn, the highest and lowest among them.
///
/// # Errors
///
/// [`Error::Io`] where the file cannot be written.
///
/// # Example
///
/// ```
/// use metal_candle::training::{MetricPoint, draw_loss};
///
/// # let output = tempfile::tempdir().unwrap();
/// # let output = output.path();
/// let points: Vec<_> = [3.0, 2.5, 2.25]
///     .into_iter()
///     .zip(1..)
///     .map(|(loss, step)| MetricPoint::Step { step, loss, learning_rate: 1e-4 })
///     .collect();
/// draw_loss(&output.join("loss.svg"), &points, "tiny-coder on SQL")?;
/// # Ok::<(), metal_candle::Error>(())
/// ```
pub fn draw_loss(path: &Path, points: &[MetricPoint], title: &str) -> Result<()> {
    let failed = |e| Error::io(path, "a writable file", e);
    let svg = Chart::new(points)
        .svg(title)
        .map_err(|e| failed(std::io::Error::other(e.to_string())))?;
    replace_file(path, |staged| std::fs::write(staged, svg).map_err(failed))
}

/// What is drawn.
struct Chart {
    training: Points,
    validation: Points,
    learning_rate: Points,
    step_axis: Axis,
    loss_axis: Axis,
    /// The highest loss, where it is above the axis.
    above: Option<f64>,
}

impl Chart {
    fn new(points: &[MetricPoint]) -> Self {
        let (mut training, mut validation, mut learning_rate) = (vec![], vec![], vec![]);
        for point in points {
            match *point {
                MetricPoint::Step {
                    step,
                    loss,
                    learning_rate: rate,
                } => {
                    push(&mut training, step, loss);
                    push(&mut learning_rate, step, rate);
                }
                MetricPoint::Evaluation { step, loss } => push(&mut validation, step, loss),
            }
        }
        let all = [&training, &validation, &learning_rate]
            .into_iter()
            .flatten();
        let (first, last) = all.fold((f64::INFINITY, 0.0_f64), |(first, last), (step, _)| {
            (first.min(*step), last.max(*step))
        });
        let losses = [&training, &validation].into_iter().flatten();
        let losses: Vec<_> = losses.map(|(_, loss)| *loss).collect();
        let ceiling = ceiling(&losses);
        let most = ceiling.unwrap_or(f64::INFINITY);
        Self {
            step_axis: Axis::steps(first.min(last), last),
            loss_axis: Axis::around(losses.iter().map(|loss| loss.min(most)), 6),
            training,
            validation,
            learning_rate,
            above: ceiling.and(losses.into_iter().reduce(f64::max)),
        }
    }

    fn is_smoothed(&self) -> bool {
        self.training.len() >= FEW
    }

    /// The evaluation with the lowest loss, the first of equals.
    fn best(&self) -> Option<(f64, f64)> {
        let lower = |a: (f64, f64), b: (f64, f64)| if b.1 < a.1 { b } else { a };
        self.validation.iter().copied().reduce(lower)
    }

    fn svg(&self, title: &str) -> Drawn<String> {
        let mut svg = String::new();
        self.draw(&mut svg, title)?;
        let size = |scale: i32| {
            let (width, height) = (scale * WIDTH, scale * HEIGHT);
            format!("<svg width=\"{width}\" height=\"{height}\"")
        };
        Ok(svg.replacen(&size(SCALE), &size(1), 1))
    }

    fn draw(&self, svg: &mut String, title: &str) -> Drawn {
        let size = (scaled(WIDTH).unsigned_abs(), scaled(HEIGHT).unsigned_abs());
        let root = SVGBackend::with_string(svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        let title = fitting(title, WIDTH - LEFT - RIGHT, 17);
        write(&root, &title, 17, (LEFT, TITLE), HPos::Left)?;
        if let Some(highest) = self.above {
            let note = format!("the highest loss, {}, lies above", number(highest));
            write(&root, &note, 11, (WIDTH - RIGHT, NOTE), HPos::Right)?;
        }
        self.draw_legend(&root)?;
        let (_, panels) = root.split_vertically(scaled(HEADER));
        let (upper, lower) = panels.split_vertically(scaled(LOSS_PANEL));
        self.draw_losses(&upper)?;
        self.draw_learning_rate(&lower)?;
        root.present()
    }

    /// A row of symbols with their meaning, above the panels.
    fn draw_legend(&self, root: &Area) -> Drawn {
        let mut left = LEFT;
        let mut entry = |label: &str, line: Option<ShapeStyle>, dot: Option<ShapeStyle>, size| {
            let symbol = if line.is_some() { 26 } else { 2 * RING };
            let [from, middle, to] =
                [0, symbol / 2, symbol].map(|x| (scaled(left + x), scaled(LEGEND)));
            if let Some(style) = line {
                root.draw(&PathElement::new([from, to], style))?;
            }
            if let Some(style) = dot {
                root.draw(&Circle::new(middle, scaled(size), style))?;
            }
            left += symbol + 8;
            write(root, label, 13, (left, LEGEND), HPos::Left)?;
            left += width(label, 13) + 16;
            Ok(())
        };
        if self.is_smoothed() {
            entry("training loss", Some(pale(BLUE)), None, 0)?;
            entry("smoothed", Some(bold(BLUE)), None, 0)?;
        } else if !self.training.is_empty() {
            entry("training loss", Some(bold(BLUE)), Some(BLUE.filled()), DOT)?;
        }
        if let Some((step, loss)) = self.best() {
            let color = VERMILION;
            entry(
                "validation loss",
                Some(bold(color)),
                Some(color.filled()),
                DOT,
            )?;
            let label = format!(
                "best: {} at step {}",
                number(loss),
                self.step_axis.label(step)
            );
            entry(&label, None, Some(bold(INK)), RING)?;
        }
        if !self.learning_rate.is_empty() {
            entry("learning rate", Some(bold(GREEN)), None, 0)?;
        }
        Ok(())
    }

    fn draw_losses(&self, area: &Area) -> Drawn {
        let mut panel = panel(area, &self.step_axis, &self.loss_axis, "loss", false)?;
        if self.is_smoothed() {
            draw_line(&mut panel, &self.training, pale(BLUE))?;
            // What is drawn on the edge would pull the average out of sight.
            let high = self.loss_axis.high();
            let seen = self
                .training
                .iter()
                .map(|(step, loss)| (*step, loss.min(high)));
            let seen: Points = seen.collect();
            draw_line(&mut panel, &smoothed(&seen), bold(BLUE))?;
        } else {
            draw_line(&mut panel, &self.training, bold(BLUE))?;
            draw_dots(&mut panel, &self.training, BLUE)?;
        }
        draw_line(&mut panel, &self.validation, bold(VERMILION))?;
        if self.validation.len() <= 5 * FEW {
            draw_dots(&mut panel, &self.validation, VERMILION)?;
        }
        let ring = |best| Circle::new(best, scaled(RING), bold(INK));
        panel.draw_series(self.best().map(ring))?;
        Ok(())
    }

    fn draw_learning_rate(&self, area: &Area) -> Drawn {
        let rates = self.learning_rate.iter().map(|(_, rate)| *rate);
        // From 0, so that the shape of the schedule is seen.
        let axis = Axis::around(rates.chain([0.0]), 3);
        let mut panel = panel(area, &self.step_axis, &axis, "learning rate", true)?;
        draw_line(&mut panel, &self.learning_rate, bold(GREEN))?;
        if self.learning_rate.len() < FEW {
            draw_dots(&mut panel, &self.learning_rate, GREEN)?;
        }
        Ok(())
    }
}

/// Keeps what can be drawn; numbers beyond 1e300 would overflow in the scale of an axis.
fn push(points: &mut Points, step: usize, value: f64) {
    if value.abs() < 1e300 {
        #[allow(clippy::cast_precision_loss, reason = "a number of steps")]
        points.push((step as f64, value));
    }
}

#[cfg(test)]
mod tests;
