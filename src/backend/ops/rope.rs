//! Rotary position embedding (Su et al., 2021, <https://arxiv.org/abs/2104.09864>).

use crate::backend::kernels;
use candle_core::{DType, Device, Result, Tensor};
use parking_lot::Mutex;

/// The cosines and sines of every position, kept in `f32` and grown on demand.
///
/// The angle of position `p` and frequency `i` is `p · inv_freq[i]`. In 16 bits, positions above 256
/// would collide; so the table is `f32` and only its values are rounded to the model's dtype.
#[derive(Debug)]
pub struct RopeTable {
    inv_freq: Vec<f32>,
    scale: f64,
    device: Device,
    dtype: DType,
    table: Mutex<Option<Rotation>>,
}

/// Cosines and sines of a run of positions, each of shape (positions, `head_dim` / 2).
#[derive(Debug, Clone)]
pub struct Rotation {
    cos: Tensor,
    sin: Tensor,
}

impl Rotation {
    /// Cosines and sines.
    pub(crate) fn parts(&self) -> (&Tensor, &Tensor) {
        (&self.cos, &self.sin)
    }

    /// The size of the heads that it rotates.
    pub(crate) fn head_dim(&self) -> Result<usize> {
        Ok(2 * self.cos.dim(1)?)
    }

    /// Whether the kernel takes it and such heads.
    fn is_taken_with(&self, x: &Tensor) -> bool {
        kernels::takes_heads(x) && kernels::takes(&self.cos) && kernels::takes(&self.sin)
    }
}

impl RopeTable {
    /// A table for the given inverse frequencies (`head_dim` / 2 of them).
    ///
    /// Cosines and sines are multiplied by `scale` (1 except for yarn).
    #[must_use]
    pub fn new(inv_freq: Vec<f32>, scale: f64, dtype: DType, device: &Device) -> Self {
        Self {
            inv_freq,
            scale,
            device: device.clone(),
            dtype,
            table: Mutex::new(None),
        }
    }

    /// The rotation of positions `offset .. offset + len`.
    ///
    /// # Errors
    ///
    /// When the device is out of memory.
    pub fn rotation(&self, offset: usize, len: usize) -> Result<Rotation> {
        let end = offset + len;
        let mut table = self.table.lock();
        let rotation = match table.take() {
            Some(rotation) if rotation.cos.dim(0)? >= end => rotation,
            _ => self.build(end.next_power_of_two().max(256))?,
        };
        let part = Rotation {
            cos: rotation.cos.narrow(0, offset, len)?,
            sin: rotation.sin.narrow(0, offset, len)?,
        };
        *table = Some(rotation);
        Ok(part)
    }

    #[allow(
        clippy::cast_precision_loss,
        reason = "positions are far below the 2^24 that f32 counts exactly"
    )]
    fn build(&self, positions: usize) -> Result<Rotation> {
        let half = self.inv_freq.len();
        // Loops rather than `flat_map`: compiled, its state makes valgrind see an uninitialised value.
        let mut angles = Vec::with_capacity(positions * half);
        for position in 0..positions {
            let frequencies = self.inv_freq.iter();
            angles.extend(frequencies.map(|frequency| position as f32 * frequency));
        }
        let angles = Tensor::from_vec(angles, (positions, half), &Device::Cpu)?;
        let finish = |values: Tensor| {
            (values * self.scale)?
                .to_dtype(self.dtype)?
                .to_device(&self.device)
        };
        Ok(Rotation {
            cos: finish(angles.cos()?)?,
            sin: finish(angles.sin()?)?,
        })
    }
}

/// Rotates `x` of shape (batch, heads, positions, `head_dim`): dimension `i` pairs with
/// `i + head_dim / 2`.
///
/// # Errors
///
/// When shapes or dtypes do not fit.
pub fn rope(x: &Tensor, rotation: &Rotation) -> Result<Tensor> {
    if rotation.is_taken_with(x) {
        return kernels::rotate(x, &rotation.cos, &rotation.sin, false);
    }
    candle_nn::rotary_emb::rope(&x.contiguous()?, &rotation.cos, &rotation.sin)
}

/// The gradient of [`rope`]: the rotation by the opposite angles.
///
/// # Errors
///
/// When shapes or dtypes do not fit.
pub fn rope_backward(dy: &Tensor, rotation: &Rotation) -> Result<Tensor> {
    if rotation.is_taken_with(dy) {
        return kernels::rotate(dy, &rotation.cos, &rotation.sin, true);
    }
    candle_nn::rotary_emb::rope(&dy.contiguous()?, &rotation.cos, &rotation.sin.neg()?)
}

#[cfg(test)]
mod tests {
    use super::super::gradcheck::{check, random};
    use super::*;

    #[test]
    fn agrees_with_finite_differences() {
        let table = RopeTable::new(vec![1.0, 0.3, 0.01], 1.2, DType::F32, &Device::Cpu);
        let rotation = table.rotation(7, 5).unwrap();
        let (x, dy) = (random(&[2, 3, 5, 6], 1), random(&[2, 3, 5, 6], 2));
        let dx = rope_backward(&dy, &rotation).unwrap();
        check("x", &x, &dx, &dy, |x| rope(x, &rotation));
    }

    #[test]
    fn a_grown_table_gives_the_same_rotation() {
        let table = RopeTable::new(vec![1.0, 0.1], 1.0, DType::F32, &Device::Cpu);
        let before = table.rotation(3, 4).unwrap();
        table.rotation(1000, 2000).unwrap();
        let after = table.rotation(3, 4).unwrap();
        assert_eq!(
            before.cos.to_vec2::<f32>().unwrap(),
            after.cos.to_vec2::<f32>().unwrap()
        );
    }

    #[test]
    fn neighbouring_positions_differ_in_16_bits() {
        let table = RopeTable::new(vec![1.0, 0.1], 1.0, DType::BF16, &Device::Cpu);
        let rows = table
            .rotation(1000, 2)
            .unwrap()
            .cos
            .to_dtype(DType::F32)
            .unwrap();
        let rows = rows.to_vec2::<f32>().unwrap();
        assert!((rows[0][0] - rows[1][0]).abs() > 0.1, "{rows:?}");
    }
}
