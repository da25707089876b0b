//! Thirty-two bytes at once: codes of weights are put together from their bits, and multiplied with those of
//! activations.

use super::lanes::Lanes;
use super::types::f16_to_f32;

/// Thirty-two codes of weights.
pub(super) trait Bytes: Copy {
    /// Sums of four products each.
    type Sums: Lanes;

    fn load(bytes: &[u8; 32]) -> Self;

    /// The lower halves of all bytes, then the upper ones.
    fn halves(bytes: &[u8; 16]) -> Self;

    fn repeat(byte: u8) -> Self;

    /// Bytes with all bits set where the bit of that index is, else with none.
    fn spread(bits: [u8; 4]) -> Self;

    fn and(self, other: Self) -> Self;

    fn or(self, other: Self) -> Self;

    /// Each byte shifted to the right.
    fn right(self, bits: u8) -> Self;

    /// Each byte shifted to the left.
    fn left(self, bits: u8) -> Self;

    /// `f16` as `f32`.
    fn halves_to_floats<const LEN: usize>(halves: [[u8; 2]; LEN]) -> [f32; LEN];

    /// Products of codes below 64 with those of activations, four added up in each lane.
    fn dot(self, x: &[i8; 32]) -> Self::Sums;

    /// Products of signed codes with those of activations, which are never -128.
    fn dot_signed(self, x: &[i8; 32]) -> Self::Sums;
}

impl Bytes for [u8; 32] {
    type Sums = [f32; 8];

    #[inline(always)]
    fn load(bytes: &[u8; 32]) -> Self {
        *bytes
    }

    #[inline(always)]
    fn halves(bytes: &[u8; 16]) -> Self {
        std::array::from_fn(|i| bytes[i % 16] >> (i / 16 * 4) & 15)
    }

    #[inline(always)]
    fn repeat(byte: u8) -> Self {
        [byte; 32]
    }

    #[inline(always)]
    fn spread(bits: [u8; 4]) -> Self {
        std::array::from_fn(|i| 0u8.wrapping_sub(bits[i / 8] >> (i % 8) & 1))
    }

    #[inline(always)]
    fn and(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] & other[i])
    }

    #[inline(always)]
    fn or(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] | other[i])
    }

    #[inline(always)]
    fn right(self, bits: u8) -> Self {
        self.map(|byte| byte >> bits)
    }

    #[inline(always)]
    fn left(self, bits: u8) -> Self {
        self.map(|byte| byte << bits)
    }

    #[inline(always)]
    fn halves_to_floats<const LEN: usize>(halves: [[u8; 2]; LEN]) -> [f32; LEN] {
        halves.map(f16_to_f32)
    }

    #[inline(always)]
    fn dot(self, x: &[i8; 32]) -> Self::Sums {
        self.dot_signed(x)
    }

    #[inline(always)]
    #[allow(clippy::cast_precision_loss, reason = "four products are below 2^16")]
    fn dot_signed(self, x: &[i8; 32]) -> Self::Sums {
        std::array::from_fn(|lane| {
            let product = |i: usize| i32::from(self[i].cast_signed()) * i32::from(x[i]);
            (4 * lane..4 * lane + 4).map(product).sum::<i32>() as f32
        })
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{AvxVnni, Maddubs, Ymm};

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "features that only some processors have")]
mod x86 {
    use super::Bytes;
    use crate::backend::kernels::blocks::lanes::Avx2;
    use std::arch::x86_64::{
        __m256i, _mm_cvtph_ps, _mm_cvtsi32_si128, _mm_cvtss_f32, _mm_loadu_si128, _mm_srli_epi16,
        _mm256_abs_epi8, _mm256_and_si256, _mm256_cmpeq_epi8, _mm256_cvtepi32_ps, _mm256_cvtph_ps,
        _mm256_dpbusd_avx_epi32, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16,
        _mm256_or_si256, _mm256_set_epi64x, _mm256_set_m128i, _mm256_set1_epi8, _mm256_set1_epi16,
        _mm256_set1_epi32, _mm256_set1_epi64x, _mm256_setzero_si256, _mm256_shuffle_epi8,
        _mm256_sign_epi8, _mm256_sll_epi16, _mm256_srl_epi16, _mm256_storeu_ps,
    };
    use std::marker::PhantomData;

    /// How a processor adds up products of bytes.
    pub(in super::super) trait Dot: Copy {
        /// # Safety
        ///
        /// The processor must have the features of the type.
        unsafe fn dot(unsigned: __m256i, signed: __m256i) -> __m256i;
    }

    /// By way of 16 bits, which two products of a signed code or one below 128 do not exceed. Needs `avx2`.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Maddubs;

    impl Dot for Maddubs {
        #[inline(always)]
        unsafe fn dot(unsigned: __m256i, signed: __m256i) -> __m256i {
            // SAFETY: the processor has `avx2`.
            unsafe {
                let pairs = _mm256_maddubs_epi16(unsigned, signed);
                _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
            }
        }
    }

    /// Needs `avxvnni`.
    #[derive(Clone, Copy)]
    pub(in super::super) struct AvxVnni;

    impl Dot for AvxVnni {
        #[inline(always)]
        unsafe fn dot(unsigned: __m256i, signed: __m256i) -> __m256i {
            // SAFETY: the processor has `avxvnni`.
            unsafe { _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), unsigned, signed) }
        }
    }

    /// To be used only in functions for processors with `avx2`, `fma`, `f16c` and the features of `D`. These inline all
    /// of it; the methods of a trait cannot ask for the features themselves.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Ymm<D>(__m256i, PhantomData<D>);

    impl<D> Ymm<D> {
        #[inline(always)]
        fn new(bytes: __m256i) -> Self {
            Self(bytes, PhantomData)
        }
    }

    // SAFETY of all: the processor has the features; what is loaded has as many bytes as are read.
    impl<D: Dot> Bytes for Ymm<D> {
        type Sums = Avx2;

        #[inline(always)]
        fn load(bytes: &[u8; 32]) -> Self {
            // SAFETY: as above.
            Self::new(unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) })
        }

        #[inline(always)]
        fn halves(bytes: &[u8; 16]) -> Self {
            // SAFETY: as above.
            Self::new(unsafe {
                let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
                let both = _mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes);
                _mm256_and_si256(both, _mm256_set1_epi8(15))
            })
        }

        #[inline(always)]
        fn repeat(byte: u8) -> Self {
            // SAFETY: as above.
            Self::new(unsafe { _mm256_set1_epi8(byte.cast_signed()) })
        }

        #[inline(always)]
        fn spread(bits: [u8; 4]) -> Self {
            // SAFETY: as above.
            Self::new(unsafe {
                let bits = _mm256_set1_epi32(i32::from_le_bytes(bits));
                let places = _mm256_set_epi64x(
                    0x0303_0303_0303_0303,
                    0x0202_0202_0202_0202,
                    0x0101_0101_0101_0101,
                    0,
                );
                let each = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
                let bits = _mm256_and_si256(_mm256_shuffle_epi8(bits, places), each);
                _mm256_cmpeq_epi8(bits, each)
            })
        }

        #[inline(always)]
        fn and(self, other: Self) -> Self {
            // SAFETY: as above.
            Self::new(unsafe { _mm256_and_si256(self.0, other.0) })
        }

        #[inline(always)]
        fn or(self, other: Self) -> Self {
            // SAFETY: as above.
            Self::new(unsafe { _mm256_or_si256(self.0, other.0) })
        }

        #[inline(always)]
        fn right(self, bits: u8) -> Self {
            // SAFETY: as above.
            let shifted = unsafe { _mm256_srl_epi16(self.0, _mm_cvtsi32_si128(i32::from(bits))) };
            Self::new(shifted).and(Self::repeat(0xff >> bits))
        }

        #[inline(always)]
        fn left(self, bits: u8) -> Self {
            // SAFETY: as above.
            let shifted = unsafe { _mm256_sll_epi16(self.0, _mm_cvtsi32_si128(i32::from(bits))) };
            Self::new(shifted).and(Self::repeat(0xff << bits))
        }

        #[inline(always)]
        fn halves_to_floats<const LEN: usize>(halves: [[u8; 2]; LEN]) -> [f32; LEN] {
            let mut floats = [0f32; LEN];
            let (eights, rest) = floats.as_chunks_mut::<8>();
            let (eight_halves, rest_halves) = halves.as_chunks::<8>();
            for (floats, halves) in eights.iter_mut().zip(eight_halves) {
                // SAFETY: as above.
                unsafe {
                    let halves = _mm_loadu_si128(halves.as_ptr().cast());
                    _mm256_storeu_ps(floats.as_mut_ptr(), _mm256_cvtph_ps(halves));
                }
            }
            for (float, half) in rest.iter_mut().zip(rest_halves) {
                // SAFETY: as above.
                *float = unsafe {
                    let half = _mm_cvtsi32_si128(i32::from(u16::from_le_bytes(*half)));
                    _mm_cvtss_f32(_mm_cvtph_ps(half))
                };
            }
            floats
        }

        #[inline(always)]
        fn dot(self, x: &[i8; 32]) -> Avx2 {
            // SAFETY: as above.
            unsafe {
                let x = _mm256_loadu_si256(x.as_ptr().cast());
                Avx2(_mm256_cvtepi32_ps(D::dot(self.0, x)))
            }
        }

        #[inline(always)]
        fn dot_signed(self, x: &[i8; 32]) -> Avx2 {
            // SAFETY: as above.
            unsafe {
                let x = _mm256_loadu_si256(x.as_ptr().cast());
                // The sign goes to the other factor.
                let (size, x) = (_mm256_abs_epi8(self.0), _mm256_sign_epi8(x, self.0));
                Avx2(_mm256_cvtepi32_ps(D::dot(size, x)))
            }
        }
    }
}
