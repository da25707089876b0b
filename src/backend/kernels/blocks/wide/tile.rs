//! Products of many rows of activations: tiles of the result that stay in registers along the whole depth, and
//! beside them the whole numbers of a group.

use super::columns::{self, Columns, LANES, VECTORS};
use super::rows::{ROWS, Rows};
use super::unpack::{Small, Super};
use crate::backend::kernels::blocks::codes::UNIT;
use crate::backend::ops::blocks::BlockType;
use std::arch::x86_64::{
    _mm512_cvtepi32_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512,
    _mm512_storeu_ps,
};
use std::cell::Cell;

/// Columns of a tile.
pub(in super::super) const COLUMNS: usize = VECTORS * LANES;

thread_local! {
    /// Columns of a tile, kept from product to product.
    static TURNED: Cell<Vec<Columns>> = const { Cell::new(Vec::new()) };
}

/// The columns of the result that rows of a matrix of `bytes` each make, into a slice of `y` for each row of `x`,
/// whose rows have so many units.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(in super::super) fn columns(
    kind: BlockType,
    weight: &[u8],
    bytes: usize,
    x: &[Rows],
    units: usize,
    y: &mut [&mut [f32]],
) {
    let mut turned = TURNED.take();
    if turned.len() < units {
        turned.resize(units, Columns::ZERO);
    }
    let product = Product {
        weight,
        bytes,
        x,
        turned: &mut turned[..units],
    };
    by_type!(kind, small, large, product, y);
    TURNED.set(turned);
}

struct Product<'a> {
    weight: &'a [u8],
    bytes: usize,
    x: &'a [Rows],
    /// Room for the columns of a tile.
    turned: &'a mut [Columns],
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
fn small<T: Small<BYTES>, const BYTES: usize>(product: Product<'_>, y: &mut [&mut [f32]]) {
    product.tiles(
        |weight, bytes, to| columns::small::<T, BYTES>(weight, bytes, to),
        |x, w, y| {
            if T::BIASED {
                tile::<32, true>(x, w, y);
            } else {
                tile::<32, false>(x, w, y);
            }
        },
        y,
    );
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
fn large<T: Super<BYTES, GROUP>, const BYTES: usize, const GROUP: usize>(
    product: Product<'_>,
    y: &mut [&mut [f32]],
) {
    product.tiles(
        |weight, bytes, to| columns::large::<T, BYTES, GROUP>(weight, bytes, to),
        |x, w, y| {
            if T::BIASED {
                tile::<GROUP, true>(x, w, y);
            } else {
                tile::<GROUP, false>(x, w, y);
            }
        },
        y,
    );
}

impl Product<'_> {
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    #[inline]
    fn tiles(
        self,
        turn: impl Fn(&[u8], usize, &mut [Columns]),
        tile: impl Fn(&[Rows], &[Columns], &mut Tile),
        y: &mut [&mut [f32]],
    ) {
        for (index, weight) in self.weight.chunks(COLUMNS * self.bytes).enumerate() {
            turn(weight, self.bytes, self.turned);
            let tall = self.x.chunks_exact(self.turned.len());
            for (x, y) in tall.zip(y.chunks_mut(ROWS)) {
                let mut found = Tile::default();
                tile(x, self.turned, &mut found);
                for (y, found) in y.iter_mut().zip(found) {
                    let places = y.get_mut(index * COLUMNS..).unwrap_or_default();
                    for (place, found) in places.iter_mut().zip(found.as_flattened()) {
                        *place = *found;
                    }
                }
            }
        }
    }
}

/// Some rows and columns of the result.
type Tile = [[[f32; LANES]; VECTORS]; ROWS];

/// A tile. Written without closures, because sums of which one has a borrow stay in memory.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline(never)]
#[allow(
    clippy::needless_range_loop,
    reason = "indices are constants when loops are unrolled"
)]
fn tile<const GROUP: usize, const BIASED: bool>(x: &[Rows], w: &[Columns], y: &mut Tile) {
    // SAFETY: what is loaded or stored has sixteen lanes.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
        for (x, w) in x.iter().zip(w) {
            for group in 0..UNIT / GROUP {
                let mut whole = [[_mm512_setzero_si512(); VECTORS]; ROWS];
                for row in 0..ROWS {
                    whole[row] = [_mm512_set1_epi32(x.starts[group][row]); VECTORS];
                }
                for step in group * GROUP / 4..(group + 1) * GROUP / 4 {
                    let mut codes = [_mm512_setzero_si512(); VECTORS];
                    for vector in 0..VECTORS {
                        codes[vector] = _mm512_loadu_si512(w.codes[step][vector].as_ptr().cast());
                    }
                    for row in 0..ROWS {
                        let x = _mm512_set1_epi32(x.codes[step][row]);
                        for vector in 0..VECTORS {
                            whole[row][vector] =
                                _mm512_dpbusd_epi32(whole[row][vector], codes[vector], x);
                        }
                    }
                }
                for vector in 0..VECTORS {
                    let scales = _mm512_loadu_ps(w.scales[group][vector].as_ptr());
                    let biases = _mm512_loadu_ps(w.biases[group][vector].as_ptr());
                    for row in 0..ROWS {
                        let scale = _mm512_mul_ps(_mm512_set1_ps(x.scales[row]), scales);
                        let (whole, sum) = (whole[row][vector], &mut sums[row][vector]);
                        *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole), scale, *sum);
                        if BIASED {
                            let x = _mm512_set1_ps(x.sums[group][row]);
                            *sum = _mm512_fmadd_ps(x, biases, *sum);
                        }
                    }
                }
            }
        }
        for row in 0..ROWS {
            for vector in 0..VECTORS {
                _mm512_storeu_ps(y[row][vector].as_mut_ptr(), sums[row][vector]);
            }
        }
    }
}
