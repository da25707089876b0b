//! Vectors of `f32` as kinds of processors have them.

use half::{bf16, f16};

/// Several `f32`, for use in functions that are compiled for processors with the instructions.
///
/// # Safety
///
/// Of all methods: the processor has the instructions, and what is loaded or stored has [`LANES`](Self::LANES)
/// numbers.
pub(super) trait Vector: Copy {
    const LANES: usize;
    /// How many of them a processor holds at once.
    const REGISTERS: usize = 16;

    /// Asks for the line of an address, whatever is there, to be brought to the second cache.
    #[inline(always)]
    fn prefetch<T>(_address: *const T) {}

    unsafe fn zero() -> Self;
    unsafe fn repeat(number: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn load_f16(from: *const f16) -> Self;
    unsafe fn load_bf16(from: *const bf16) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `self · other + more`, rounded once where there is an instruction for that.
    unsafe fn times_plus(self, other: Self, more: Self) -> Self;
    unsafe fn sum(self) -> f32;
    /// The sums of four, each as [`sum`](Self::sum) has it.
    #[inline(always)]
    unsafe fn sums(four: [Self; 4]) -> [f32; 4] {
        // SAFETY: as for all methods.
        four.map(|vector| unsafe { vector.sum() })
    }
}

/// What the compiler makes of it.
#[cfg(any(test, not(target_arch = "aarch64")))]
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; 8]);

#[cfg(any(test, not(target_arch = "aarch64")))]
impl Vector for Portable {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0.0; 8])
    }

    #[inline(always)]
    unsafe fn repeat(number: f32) -> Self {
        Self([number; 8])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as for all methods.
        Self(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: as for all methods.
        Self(unsafe { from.cast::<[f16; 8]>().read_unaligned() }.map(f16::to_f32))
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        // SAFETY: as for all methods.
        Self(unsafe { from.cast::<[bf16; 8]>().read_unaligned() }.map(bf16::to_f32))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as for all methods.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn times_plus(self, other: Self, more: Self) -> Self {
        Self(std::array::from_fn(|lane| {
            self.0[lane] * other.0[lane] + more.0[lane]
        }))
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        self.0.iter().sum()
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Vector;
    use half::{bf16, f16};
    use std::arch::x86_64::{
        __m128, __m256, __m512, _MM_HINT_T1, _mm_add_ps, _mm_cvtss_f32, _mm_loadu_si128,
        _mm_movehl_ps, _mm_movelh_ps, _mm_prefetch, _mm_shuffle_ps, _mm_storeu_ps, _mm256_add_ps,
        _mm256_castps256_ps128, _mm256_castsi256_ps, _mm256_cvtepu16_epi32, _mm256_cvtph_ps,
        _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256,
        _mm256_set1_ps, _mm256_setzero_ps, _mm256_slli_epi32, _mm256_storeu_ps, _mm512_castpd_ps,
        _mm512_castpd256_pd512, _mm512_castps_pd, _mm512_castps512_ps256, _mm512_castsi512_ps,
        _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_extractf64x4_pd, _mm512_fmadd_ps,
        _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32, _mm512_storeu_ps,
    };

    /// The two halves, added up.
    #[inline(always)]
    unsafe fn halves(x: __m512) -> __m256 {
        // SAFETY: as for all methods of the trait.
        unsafe {
            let high = _mm512_castpd_ps(_mm512_castpd256_pd512(_mm512_extractf64x4_pd::<1>(
                _mm512_castps_pd(x),
            )));
            _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_castps512_ps256(high))
        }
    }

    /// The two halves of a half, added up.
    #[inline(always)]
    unsafe fn quarters(x: __m256) -> __m128 {
        // SAFETY: as for all methods of the trait.
        unsafe { _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x)) }
    }

    /// The sums of four vectors: of each its halves, and their halves, and so on, are added up.
    #[inline(always)]
    unsafe fn sums([a, b, c, d]: [__m256; 4]) -> __m128 {
        // SAFETY: as for all methods of the trait.
        unsafe {
            let (a, b, c, d) = (quarters(a), quarters(b), quarters(c), quarters(d));
            let ab = _mm_add_ps(_mm_movelh_ps(a, b), _mm_movehl_ps(b, a));
            let cd = _mm_add_ps(_mm_movelh_ps(c, d), _mm_movehl_ps(d, c));
            _mm_add_ps(
                _mm_shuffle_ps::<0b10_00_10_00>(ab, cd),
                _mm_shuffle_ps::<0b11_01_11_01>(ab, cd),
            )
        }
    }

    /// For processors with `avx512f`.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx512(__m512);

    // SAFETY of all: as for all methods of the trait.
    impl Vector for Avx512 {
        const LANES: usize = 16;
        const REGISTERS: usize = 32;

        #[inline(always)]
        fn prefetch<T>(address: *const T) {
            // SAFETY: it reads nothing that the program sees, and no address is wrong for it.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
        }

        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_setzero_ps() })
        }

        #[inline(always)]
        unsafe fn repeat(number: f32) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_set1_ps(number) })
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_loadu_ps(from) })
        }

        #[inline(always)]
        unsafe fn load_f16(from: *const f16) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) })
        }

        #[inline(always)]
        unsafe fn load_bf16(from: *const bf16) -> Self {
            // SAFETY: as above.
            Self(unsafe {
                let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
            })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        unsafe fn times_plus(self, other: Self, more: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_fmadd_ps(self.0, other.0, more.0) })
        }

        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            // SAFETY: as above.
            unsafe { _mm_cvtss_f32(sums([halves(self.0); 4])) }
        }

        #[inline(always)]
        unsafe fn sums([a, b, c, d]: [Self; 4]) -> [f32; 4] {
            let mut found = [0f32; 4];
            // SAFETY: as above; there is room for four numbers.
            unsafe {
                let four = sums([halves(a.0), halves(b.0), halves(c.0), halves(d.0)]);
                _mm_storeu_ps(found.as_mut_ptr(), four);
            }
            found
        }
    }

    /// For processors with `avx2`, `fma` and `f16c`.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2(__m256);

    // SAFETY of all: as for all methods of the trait.
    impl Vector for Avx2 {
        const LANES: usize = 8;

        #[inline(always)]
        fn prefetch<T>(address: *const T) {
            // SAFETY: it reads nothing that the program sees, and no address is wrong for it.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
        }

        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm256_setzero_ps() })
        }

        #[inline(always)]
        unsafe fn repeat(number: f32) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm256_set1_ps(number) })
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm256_loadu_ps(from) })
        }

        #[inline(always)]
        unsafe fn load_f16(from: *const f16) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) })
        }

        #[inline(always)]
        unsafe fn load_bf16(from: *const bf16) -> Self {
            // SAFETY: as above.
            Self(unsafe {
                let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
            })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above.
            unsafe { _mm256_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        unsafe fn times_plus(self, other: Self, more: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm256_fmadd_ps(self.0, other.0, more.0) })
        }

        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            // SAFETY: as above.
            unsafe { _mm_cvtss_f32(sums([self.0; 4])) }
        }

        #[inline(always)]
        unsafe fn sums(four: [Self; 4]) -> [f32; 4] {
            let [a, b, c, d] = four;
            let mut found = [0f32; 4];
            // SAFETY: as above; there is room for four numbers.
            unsafe { _mm_storeu_ps(found.as_mut_ptr(), sums([a.0, b.0, c.0, d.0])) };
            found
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) use neon::Neon;

#[cfg(target_arch = "aarch64")]
mod neon {
    use super::Vector;
    use half::{bf16, f16};
    use std::arch::aarch64::{
        float32x4_t, vaddq_f32, vaddvq_f32, vdupq_n_f32, vfmaq_f32, vld1_u16, vld1q_f32,
        vreinterpretq_f32_u32, vshll_n_u16, vst1q_f32,
    };
    use std::arch::asm;

    /// Two registers, so that sums do not wait for each other. All processors of this kind have it.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Neon(float32x4_t, float32x4_t);

    // SAFETY of all: as for all methods of the trait.
    impl Vector for Neon {
        const LANES: usize = 8;

        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: as above.
            unsafe { Self::repeat(0.0) }
        }

        #[inline(always)]
        unsafe fn repeat(number: f32) -> Self {
            // SAFETY: as above.
            unsafe { Self(vdupq_n_f32(number), vdupq_n_f32(number)) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: as above.
            unsafe { Self(vld1q_f32(from), vld1q_f32(from.add(4))) }
        }

        #[inline(always)]
        unsafe fn load_f16(from: *const f16) -> Self {
            let widen = |from: *const f16| {
                let wide: float32x4_t;
                // SAFETY: as above. The instruction is one of all processors of this kind; its intrinsic
                // is not in stable Rust.
                unsafe {
                    asm!(
                        "fcvtl {wide:v}.4s, {narrow:v}.4h",
                        wide = out(vreg) wide,
                        narrow = in(vreg) vld1_u16(from.cast()),
                        options(pure, nomem, nostack, preserves_flags),
                    );
                }
                wide
            };
            // SAFETY: as above.
            unsafe { Self(widen(from), widen(from.add(4))) }
        }

        #[inline(always)]
        unsafe fn load_bf16(from: *const bf16) -> Self {
            // SAFETY: as above.
            let widen = |from: *const bf16| unsafe {
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from.cast())))
            };
            // SAFETY: as above.
            unsafe { Self(widen(from), widen(from.add(4))) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above.
            unsafe {
                vst1q_f32(to, self.0);
                vst1q_f32(to.add(4), self.1);
            }
        }

        #[inline(always)]
        unsafe fn times_plus(self, other: Self, more: Self) -> Self {
            // SAFETY: as above.
            unsafe {
                Self(
                    vfmaq_f32(more.0, self.0, other.0),
                    vfmaq_f32(more.1, self.1, other.1),
                )
            }
        }

        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            // SAFETY: as above.
            unsafe { vaddvq_f32(vaddq_f32(self.0, self.1)) }
        }
    }
}
