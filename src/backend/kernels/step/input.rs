//! What products of a phase take: the same numbers for all its rows.

use crate::backend::kernels::blocks::Codes;

/// Vectors of one width, (tokens, width), which each thread has for itself.
#[derive(Default)]
pub(super) struct Input {
    pub width: usize,
    pub numbers: Vec<f32>,
    /// The same in eight bits, where products take that.
    pub codes: Codes,
}

impl Input {
    /// Makes it `count` vectors of `width` numbers, which `fill` writes.
    pub fn set(&mut self, count: usize, width: usize, fill: impl FnOnce(&mut [f32])) {
        self.width = width;
        self.numbers.resize(count * width, 0.0);
        fill(&mut self.numbers);
    }

    /// The vectors of `x` after the norm.
    pub fn norm(&mut self, x: &[f32], weight: &[f32], eps: f32) {
        let width = weight.len();
        self.set(x.len() / width, width, |normed| {
            for (x, normed) in x.chunks_exact(width).zip(normed.chunks_exact_mut(width)) {
                rms_norm(x, weight, eps, normed);
            }
        });
    }
}

/// `weight · x / sqrt(mean(x²) + eps)`.
#[allow(clippy::cast_precision_loss, reason = "a width fits f32")]
pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let mut squares = [0f32; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    for chunk in chunks {
        for (square, x) in squares.iter_mut().zip(chunk) {
            *square += x * x;
        }
    }
    let square = squares.iter().sum::<f32>() + rest.iter().map(|x| x * x).sum::<f32>();
    let inverse = 1.0 / (square / x.len() as f32 + eps).sqrt();
    for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
        *y = x * inverse * weight;
    }
}
