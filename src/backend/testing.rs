//! The device under test, and what holds it to the CPU.
//!
//! `METAL_CANDLE_TEST_DEVICE` names the device: `cpu` (the default), `metal` or `cuda`. On the CPU
//! itself these tests still hold 16 bits to `f32`, and views to contiguous tensors.

use super::DeviceKind;
use super::ops::gradcheck::random;
use candle_core::{DType, Device, Result, Tensor};
use std::sync::OnceLock;

/// The kind of the device under test.
pub(crate) fn device_kind() -> DeviceKind {
    let name = std::env::var("METAL_CANDLE_TEST_DEVICE");
    DeviceKind::from_name(name.as_deref().unwrap_or("cpu")).unwrap()
}

/// The device under test.
pub(crate) fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| device_kind().open().unwrap())
}

/// How an input lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Contiguous, from the start of its buffer.
    Whole,
    /// Contiguous, from the middle of its buffer: rows out of more rows.
    Offset,
    /// Columns out of wider rows.
    Columns,
    /// The last two dimensions exchanged.
    Turned,
    /// For rank 4: positions out of a longer key-value cache.
    Cached,
    /// For rank 4: heads split from rows as the decoder does it. With one head or one position this
    /// counts as contiguous, though its strides are not those of a new tensor.
    Split,
}

/// What the operation gets: the same numbers for every device, dtype and layout.
pub(crate) struct Inputs<'a> {
    pub device: &'a Device,
    pub dtype: DType,
    /// All numbers are rounded to this one, in which the device under test computes.
    rounded: DType,
    layout: Layout,
}

impl Inputs<'_> {
    /// Numbers in (-1, 1) in the dtype and layout under test.
    pub(crate) fn tensor(&self, shape: &[usize], seed: u64) -> Tensor {
        let numbers = random(shape, seed).to_dtype(self.rounded).unwrap();
        let numbers = numbers.to_dtype(self.dtype).unwrap();
        lay(&numbers.to_device(self.device).unwrap(), self.layout).unwrap()
    }

    /// Numbers in (-1, 1) in `f32` whatever the dtype: out of a longer vector, as those of an
    /// adapter are.
    pub(crate) fn wide(&self, shape: &[usize], seed: u64) -> Tensor {
        let numbers = random(shape, seed).flatten_all().unwrap();
        let numbers = numbers.to_device(self.device).unwrap();
        lay(&numbers, Layout::Offset)
            .and_then(|x| x.reshape(shape))
            .unwrap()
    }

    /// Ids below `bound`, out of a longer vector.
    pub(crate) fn ids(&self, count: usize, bound: usize) -> Tensor {
        let bound = u32::try_from(bound).unwrap();
        let ids: Vec<u32> = (0..=u32::try_from(count).unwrap())
            .map(|i| i.wrapping_mul(2_654_435_761) % bound)
            .collect();
        Tensor::new(ids, self.device)
            .and_then(|ids| ids.narrow(0, 1, count))
            .unwrap()
    }
}

/// The same numbers in another place. Around a view there are numbers so large that reading one of
/// them cannot stay unnoticed.
fn lay(x: &Tensor, layout: Layout) -> Result<Tensor> {
    let rank = x.rank();
    let out_of_more = |dim: usize| {
        let mut shape = x.dims().to_vec();
        shape[dim] = 2;
        let around = Tensor::full(1e4f32, shape, x.device())?.to_dtype(x.dtype())?;
        let len = x.dim(dim)?;
        Tensor::cat(&[&around, x, &around], dim)?.narrow(dim, 2, len)
    };
    match layout {
        Layout::Offset => out_of_more(0),
        Layout::Columns => out_of_more(rank - 1),
        Layout::Turned if rank > 1 => x.t()?.contiguous()?.t(),
        Layout::Cached if rank == 4 => out_of_more(2),
        Layout::Split if rank == 4 => x
            .transpose(1, 2)?
            .force_contiguous()?
            .transpose(1, 2)?
            .contiguous()?
            .reshape(x.shape()),
        _ => Ok(x.clone()),
    }
}

/// What the numbers of a result may be off by, as a share of the largest of them.
///
/// In `bf16`, eight roundings of 2⁻⁸: inputs are equal, a result is rounded once and so is each of a
/// few steps on the way. In `f16`, sixteen of 2⁻¹¹: the CPU adds the products of a single row in
/// `f16` itself, which over a thousand of them is some ten roundings. In `f32` it is the order of
/// summation that differs: over the 6,144 numbers of the longest sum that is some √6144 · 2⁻²⁴, or
/// 5e-6; and GPUs have exponentials of a few units in the last place.
pub(crate) fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 8.0 / 256.0,
        DType::F16 => 16.0 / 2048.0,
        _ => 1e-5,
    }
}

/// Runs `operation` on the device under test, in every dtype and in each of the layouts, and holds
/// its results to those of the CPU in `f32` from contiguous inputs.
pub(crate) fn on_both<const N: usize>(
    name: &str,
    layouts: &[Layout],
    operation: impl Fn(&Inputs) -> Result<[(&'static str, Tensor); N]>,
) {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let run = |device, computed, layout| {
            let what = format!("{name}, {dtype:?}, {layout:?}");
            let inputs = Inputs {
                device,
                dtype: computed,
                rounded: dtype,
                layout,
            };
            operation(&inputs).unwrap_or_else(|error| panic!("{what}: {error}"))
        };
        let expected = run(&Device::Cpu, DType::F32, Layout::Whole);
        for &layout in layouts {
            let found = run(device(), dtype, layout);
            for ((result, found), (_, expected)) in found.iter().zip(&expected) {
                let what = format!("{name}, {dtype:?}, {layout:?}: {result}");
                assert_agree(&what, found, expected, tolerance(dtype));
            }
        }
    }
}

/// Asserts that numbers agree within `tolerance` of the largest of them, and are numbers.
pub(crate) fn assert_agree(what: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let (found, expected) = (read(found), read(expected));
    // Below a thousandth all are taken for nothing, in which only rounding is left.
    let size = expected.iter().fold(1e-3_f64, |max, x| max.max(x.abs()));
    for (index, (a, b)) in found.iter().zip(&expected).enumerate() {
        assert!(
            a.is_finite() && (a - b).abs() <= tolerance * size,
            "{what}: {a} for {b} at {index}, largest {size}"
        );
    }
}

/// The numbers of a tensor on any device.
pub(crate) fn read(tensor: &Tensor) -> Vec<f64> {
    tensor
        .to_device(&Device::Cpu)
        .and_then(|t| t.to_dtype(DType::F64)?.flatten_all()?.to_vec1())
        .unwrap()
}

/// Whether this is a process that runs the test `name` alone. Where it is not, the test has passed in such
/// a process when this returns.
pub(crate) fn in_own_process(name: &str) -> bool {
    const CHILD: &str = "METAL_CANDLE_TEST_ALONE";
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let test = std::env::current_exe().unwrap();
    let mut child = std::process::Command::new(test);
    let output = child.args(["--exact", name]).env(CHILD, "1").output();
    let output = output.unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let passed = output.status.success() && printed.contains("1 passed");
    assert!(passed, "{printed}");
    false
}
