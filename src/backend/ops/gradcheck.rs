//! Finite differences: the check that every backward of this folder goes through.

use candle_core::{DType, Device, Result, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A tensor of uniform numbers in (-1, 1), the same for the same seed.
pub(crate) fn random(shape: &[usize], seed: u64) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let numbers: Vec<f32> = (0..shape.iter().product())
        .map(|_| rng.random_range(-1.0..1.0))
        .collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
}

/// The inner product of two tensors, summed in `f64`.
fn inner(a: &Tensor, b: &Tensor) -> f64 {
    let flat = |t: &Tensor| {
        t.flatten_all()
            .and_then(|t| t.to_dtype(DType::F64))
            .and_then(|t| t.to_vec1::<f64>())
            .unwrap()
    };
    flat(a).iter().zip(flat(b)).map(|(a, b)| a * b).sum()
}

/// Asserts that `gradient` is that of `<f(at), dy>` at `at`, along several random directions.
///
/// A central difference with step ε is off by ε² and by the rounding error over ε; at ε = 1e-2 both
/// are some 1e-4 of the slopes of these operations.
pub(crate) fn check(
    name: &str,
    at: &Tensor,
    gradient: &Tensor,
    dy: &Tensor,
    f: impl Fn(&Tensor) -> Result<Tensor>,
) {
    const STEP: f64 = 1e-2;
    assert_eq!(at.dims(), gradient.dims(), "gradient of {name}");
    for seed in 100..108 {
        let direction = random(at.dims(), seed);
        let moved = |step: f64| {
            let moved = (at + (&direction * step).unwrap()).unwrap();
            inner(&f(&moved).unwrap(), dy)
        };
        let expected = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
        let found = inner(gradient, &direction);
        // Relative to the size the slope could have, so that directions at right angles to the
        // gradient do not divide by nothing.
        let size = inner(gradient, gradient).sqrt() * inner(&direction, &direction).sqrt();
        assert!(size > 1e-3, "the gradient of {name} is zero");
        assert!(
            (found - expected).abs() < 2e-3 * size,
            "gradient of {name}: {found} against {expected}, size {size}"
        );
    }
}
