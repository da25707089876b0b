//! Dropout whose masks can be made again from a seed.

use candle_core::{Device, Result, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A dropout mask of the given shape: `1 / (1 - p)` with probability `1 - p`, else 0 (`f32`).
///
/// Equal seeds give equal masks on every device, so that a recomputed forward, or a resumed run,
/// drops the same elements. The backward of `x · mask` is `dy · mask`.
///
/// # Errors
///
/// When the device is out of memory.
#[allow(clippy::cast_possible_truncation, reason = "a scale near 1 fits f32")]
pub fn dropout_mask(shape: &[usize], p: f64, seed: u64, device: &Device) -> Result<Tensor> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let kept = (1.0 / (1.0 - p)) as f32;
    let mask: Vec<f32> = (0..shape.iter().product())
        .map(|_| if rng.random_bool(p) { 0.0 } else { kept })
        .collect();
    Tensor::from_vec(mask, shape, device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_mean_and_repeats() {
        let mask = dropout_mask(&[100, 100], 0.25, 3, &Device::Cpu).unwrap();
        let mean = mask.mean_all().unwrap().to_scalar::<f32>().unwrap();
        assert!((mean - 1.0).abs() < 0.03, "{mean}");
        let again = dropout_mask(&[100, 100], 0.25, 3, &Device::Cpu).unwrap();
        assert_eq!(
            mask.to_vec2::<f32>().unwrap(),
            again.to_vec2::<f32>().unwrap()
        );
    }
}
