//! Eight numbers at once: by vector instructions where the processor has them, else as the compiler sees fit.

/// Eight `f32`.
pub(super) trait Lanes: Copy {
    fn new(numbers: &[f32; 8]) -> Self;

    fn repeat(number: f32) -> Self;

    /// Four of one number, then four of the other.
    fn halves(first: f32, second: f32) -> Self;

    /// The signed bytes of a word, the lowest first.
    fn codes(word: u64) -> Self;

    fn times(self, other: Self) -> Self;

    fn plus(self, other: Self) -> Self;

    /// `self · other + more`, rounded once where there is an instruction for that.
    fn times_plus(self, other: Self, more: Self) -> Self;

    fn numbers(self) -> [f32; 8];
}

impl Lanes for [f32; 8] {
    #[inline(always)]
    fn new(numbers: &[f32; 8]) -> Self {
        *numbers
    }

    #[inline(always)]
    fn repeat(number: f32) -> Self {
        [number; 8]
    }

    #[inline(always)]
    fn halves(first: f32, second: f32) -> Self {
        std::array::from_fn(|lane| if lane < 4 { first } else { second })
    }

    #[inline(always)]
    fn codes(word: u64) -> Self {
        word.to_le_bytes().map(|code| f32::from(code.cast_signed()))
    }

    #[inline(always)]
    fn times(self, other: Self) -> Self {
        std::array::from_fn(|lane| self[lane] * other[lane])
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        std::array::from_fn(|lane| self[lane] + other[lane])
    }

    #[inline(always)]
    fn times_plus(self, other: Self, more: Self) -> Self {
        // Where there is no instruction for it, it would be a call.
        if cfg!(target_arch = "aarch64") {
            std::array::from_fn(|lane| self[lane].mul_add(other[lane], more[lane]))
        } else {
            self.times(other).plus(more)
        }
    }

    #[inline(always)]
    fn numbers(self) -> [f32; 8] {
        self
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use avx2::Avx2;

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "features that only some processors have")]
mod avx2 {
    use super::Lanes;
    use std::arch::x86_64::{
        __m256, _mm_cvtsi64_si128, _mm_set1_ps, _mm256_add_ps, _mm256_cvtepi8_epi32,
        _mm256_cvtepi32_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_mul_ps, _mm256_set_m128,
        _mm256_set1_ps, _mm256_storeu_ps,
    };

    /// To be used only in functions for processors with `avx2` and `fma`. These inline all of it; the
    /// methods of a trait cannot ask for the features themselves.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2(pub(in super::super) __m256);

    // SAFETY of all: the processor has `avx2` and `fma`; what is loaded or stored has 8 numbers.
    impl Lanes for Avx2 {
        #[inline(always)]
        fn new(numbers: &[f32; 8]) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm256_loadu_ps(numbers.as_ptr()) })
        }

        #[inline(always)]
        fn repeat(number: f32) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm256_set1_ps(number) })
        }

        #[inline(always)]
        fn halves(first: f32, second: f32) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm256_set_m128(_mm_set1_ps(second), _mm_set1_ps(first)) })
        }

        #[inline(always)]
        fn codes(word: u64) -> Self {
            // SAFETY: as above.
            Self(unsafe {
                let bytes = _mm_cvtsi64_si128(word.cast_signed());
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))
            })
        }

        #[inline(always)]
        fn times(self, other: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm256_mul_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn plus(self, other: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm256_add_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn times_plus(self, other: Self, more: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm256_fmadd_ps(self.0, other.0, more.0) })
        }

        #[inline(always)]
        fn numbers(self) -> [f32; 8] {
            let mut numbers = [0f32; 8];
            // SAFETY: as above.
            unsafe { _mm256_storeu_ps(numbers.as_mut_ptr(), self.0) };
            numbers
        }
    }
}
