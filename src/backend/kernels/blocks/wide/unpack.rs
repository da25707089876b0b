//! Blocks taken apart, 64 codes at once.
//!
//! Codes are bytes without a sign, which count from so much below zero.

use crate::backend::kernels::blocks::types;
use crate::backend::kernels::blocks::unpack::part;
use std::arch::x86_64::{
    __m512, __m512i, _mm_and_si128, _mm_cvtph_ps, _mm_cvtsi32_si128, _mm_cvtsi64_si128,
    _mm_cvtss_f32, _mm_loadu_si128, _mm_set_epi64x, _mm_set1_epi8, _mm_srli_epi16, _mm_sub_epi8,
    _mm256_cvtph_ps, _mm256_loadu_si256, _mm256_set1_epi16, _mm512_and_si512,
    _mm512_broadcast_i32x4, _mm512_broadcast_i64x4, _mm512_castsi256_si512, _mm512_cvtepi8_epi32,
    _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_inserti64x4, _mm512_loadu_si512,
    _mm512_mask_add_epi8, _mm512_mask_broadcast_i32x4, _mm512_mul_ps, _mm512_or_si512,
    _mm512_set_epi64, _mm512_set1_epi8, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512,
    _mm512_sllv_epi16, _mm512_srli_epi16, _mm512_srlv_epi16, _mm512_test_epi8_mask,
    _mm512_xor_si512, _mm512_zextps128_ps512, _mm512_zextps256_ps512,
};

// SAFETY of all: it is inlined into functions for processors with what [`super::is_there`] asks for; what is loaded
// has as many bytes as are read.

/// Codes of `UNITS` times 32 numbers, 64 a vector, with the scales and biases of each `GROUP` of them.
pub(super) struct Span<const UNITS: usize, const GROUP: usize> {
    pub codes: [__m512i; 4],
    pub scales: __m512,
    pub biases: __m512,
}

/// A type of blocks of 32 numbers.
pub(super) trait Small<const BYTES: usize> {
    /// Codes count from `2^OFFSET` below zero, where it is not 0.
    const OFFSET: u32 = 0;
    const BIASED: bool = false;

    /// Those of two blocks.
    unsafe fn codes(a: &[u8; BYTES], b: &[u8; BYTES]) -> __m512i;

    #[inline(always)]
    unsafe fn span<const UNITS: usize>(blocks: &[[u8; BYTES]; UNITS]) -> Span<UNITS, 32> {
        // SAFETY: as above.
        unsafe {
            let mut codes = [_mm512_setzero_si512(); 4];
            for (codes, [a, b]) in codes.iter_mut().zip(blocks.as_chunks().0) {
                *codes = Self::codes(a, b);
            }
            let biases = if Self::BIASED {
                halves(blocks, 2)
            } else {
                _mm512_setzero_ps()
            };
            Span {
                codes,
                scales: halves(blocks, 0),
                biases,
            }
        }
    }
}

/// The `f16` at a place of each block.
#[inline(always)]
unsafe fn halves<const BYTES: usize, const UNITS: usize>(
    blocks: &[[u8; BYTES]; UNITS],
    at: usize,
) -> __m512 {
    let four = |start: usize| {
        let mut bits = 0u64;
        for unit in (start..UNITS.min(start + 4)).rev() {
            bits = bits << 16 | u64::from(u16::from_le_bytes(*part(&blocks[unit], at)));
        }
        bits.cast_signed()
    };
    // SAFETY: as above.
    unsafe {
        if UNITS > 4 {
            let bits = _mm_set_epi64x(four(4), four(0));
            _mm512_zextps256_ps512(_mm256_cvtph_ps(bits))
        } else {
            _mm512_zextps128_ps512(_mm_cvtph_ps(_mm_cvtsi64_si128(four(0))))
        }
    }
}

impl Small<18> for types::Q4_0 {
    const OFFSET: u32 = 3;

    #[inline(always)]
    unsafe fn codes(a: &[u8; 18], b: &[u8; 18]) -> __m512i {
        // SAFETY: as above.
        unsafe { nibbles(part(a, 2), part(b, 2)) }
    }
}

impl Small<20> for types::Q4_1 {
    const BIASED: bool = true;

    #[inline(always)]
    unsafe fn codes(a: &[u8; 20], b: &[u8; 20]) -> __m512i {
        // SAFETY: as above.
        unsafe { nibbles(part(a, 4), part(b, 4)) }
    }
}

impl Small<22> for types::Q5_0 {
    const OFFSET: u32 = 4;

    #[inline(always)]
    unsafe fn codes(a: &[u8; 22], b: &[u8; 22]) -> __m512i {
        // SAFETY: as above.
        unsafe { with_fifths(nibbles(part(a, 6), part(b, 6)), part(a, 2), part(b, 2)) }
    }
}

impl Small<24> for types::Q5_1 {
    const BIASED: bool = true;

    #[inline(always)]
    unsafe fn codes(a: &[u8; 24], b: &[u8; 24]) -> __m512i {
        // SAFETY: as above.
        unsafe { with_fifths(nibbles(part(a, 8), part(b, 8)), part(a, 4), part(b, 4)) }
    }
}

impl Small<34> for types::Q8_0 {
    const OFFSET: u32 = 7;

    #[inline(always)]
    unsafe fn codes(a: &[u8; 34], b: &[u8; 34]) -> __m512i {
        let (a, b): (&[u8; 32], &[u8; 32]) = (part(a, 2), part(b, 2));
        // SAFETY: as above.
        unsafe {
            let low = _mm512_castsi256_si512(_mm256_loadu_si256(a.as_ptr().cast()));
            let both = _mm512_inserti64x4::<1>(low, _mm256_loadu_si256(b.as_ptr().cast()));
            _mm512_xor_si512(both, _mm512_set1_epi8(-128))
        }
    }
}

/// The lower halves of 16 bytes, their upper ones, and the same of the others.
#[inline(always)]
unsafe fn nibbles(a: &[u8; 16], b: &[u8; 16]) -> __m512i {
    // SAFETY: as above.
    unsafe {
        let (a, b) = (
            _mm_loadu_si128(a.as_ptr().cast()),
            _mm_loadu_si128(b.as_ptr().cast()),
        );
        let both = _mm512_mask_broadcast_i32x4(_mm512_broadcast_i32x4(a), 0xff00, b);
        let shifts = _mm512_set_epi64(FOUR, FOUR, 0, 0, FOUR, FOUR, 0, 0);
        _mm512_and_si512(_mm512_srlv_epi16(both, shifts), _mm512_set1_epi8(15))
    }
}

/// Shifts of four words by 4.
const FOUR: i64 = 0x0004_0004_0004_0004;

/// Codes with a bit more each.
#[inline(always)]
unsafe fn with_fifths(codes: __m512i, a: &[u8; 4], b: &[u8; 4]) -> __m512i {
    let bits = u64::from(u32::from_le_bytes(*a)) | u64::from(u32::from_le_bytes(*b)) << 32;
    // SAFETY: as above.
    unsafe { _mm512_mask_add_epi8(codes, bits, codes, _mm512_set1_epi8(16)) }
}

/// A type of blocks of 256 numbers.
pub(super) trait Super<const BYTES: usize, const GROUP: usize> {
    const OFFSET: u32 = 0;
    const BIASED: bool = false;

    unsafe fn span(block: &[u8; BYTES]) -> Span<8, GROUP>;
}

impl Super<84, 16> for types::Q2K {
    const BIASED: bool = true;

    #[inline(always)]
    unsafe fn span(block: &[u8; 84]) -> Span<8, 16> {
        let parts: &[u8; 16] = part(block, 0);
        // SAFETY: as above.
        unsafe {
            let parts = _mm_loadu_si128(parts.as_ptr().cast());
            let low = _mm_set1_epi8(15);
            let biases = _mm_and_si128(_mm_srli_epi16::<4>(parts), low);
            Span {
                codes: quarters(part(block, 16)),
                scales: scaled(
                    _mm512_cvtepu8_epi32(_mm_and_si128(parts, low)),
                    half(part(block, 80)),
                ),
                biases: scaled(_mm512_cvtepu8_epi32(biases), -half(part(block, 82))),
            }
        }
    }
}

impl Super<110, 16> for types::Q3K {
    const OFFSET: u32 = 2;

    #[inline(always)]
    unsafe fn span(block: &[u8; 110]) -> Span<8, 16> {
        let [first, second] = Self::parts(block).map(u64::cast_signed);
        // SAFETY: as above.
        unsafe {
            let parts = _mm_sub_epi8(_mm_set_epi64x(second, first), _mm_set1_epi8(32));
            Span {
                codes: with_bits(quarters(part(block, 32)), part(block, 0), 4),
                scales: scaled(_mm512_cvtepi8_epi32(parts), half(part(block, 108))),
                biases: _mm512_setzero_ps(),
            }
        }
    }
}

impl Super<144, 32> for types::Q4K {
    const BIASED: bool = true;

    #[inline(always)]
    unsafe fn span(block: &[u8; 144]) -> Span<8, 32> {
        // SAFETY: as above.
        unsafe { eight_groups(part(block, 0), low_and_high(part(block, 16))) }
    }
}

impl Super<176, 32> for types::Q5K {
    const BIASED: bool = true;

    #[inline(always)]
    unsafe fn span(block: &[u8; 176]) -> Span<8, 32> {
        // SAFETY: as above.
        unsafe {
            let codes = with_bits(low_and_high(part(block, 48)), part(block, 16), 16);
            eight_groups(part(block, 0), codes)
        }
    }
}

impl Super<210, 16> for types::Q6K {
    const OFFSET: u32 = 5;

    #[inline(always)]
    unsafe fn span(block: &[u8; 210]) -> Span<8, 16> {
        let parts: &[u8; 16] = part(block, 192);
        // SAFETY: as above.
        unsafe {
            let parts = _mm_loadu_si128(parts.as_ptr().cast());
            let [a, b] = six_bits(part(block, 0), part(block, 128));
            let [c, d] = six_bits(part(block, 64), part(block, 160));
            Span {
                codes: [a, b, c, d],
                scales: scaled(_mm512_cvtepi8_epi32(parts), half(part(block, 208))),
                biases: _mm512_setzero_ps(),
            }
        }
    }
}

/// Codes with what the types of eight groups have before them.
#[inline(always)]
unsafe fn eight_groups(head: &[u8; 16], codes: [__m512i; 4]) -> Span<8, 32> {
    let (scales, biases) = types::scale_and_bias_parts(head);
    // SAFETY: as above.
    unsafe {
        let parts = |parts: u64| _mm512_cvtepu8_epi32(_mm_cvtsi64_si128(parts.cast_signed()));
        Span {
            codes,
            scales: scaled(parts(scales), half(part(head, 0))),
            biases: scaled(parts(biases), -half(part(head, 2))),
        }
    }
}

#[inline(always)]
unsafe fn scaled(parts: __m512i, scale: f32) -> __m512 {
    // SAFETY: as above.
    unsafe { _mm512_mul_ps(_mm512_cvtepi32_ps(parts), _mm512_set1_ps(scale)) }
}

/// An `f16`.
#[inline(always)]
unsafe fn half(bytes: &[u8; 2]) -> f32 {
    let bits = i32::from(u16::from_le_bytes(*bytes));
    // SAFETY: as above.
    unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits))) }
}

/// Thirty-two bytes, twice.
#[inline(always)]
unsafe fn twice(bytes: &[u8; 32]) -> __m512i {
    // SAFETY: as above.
    unsafe { _mm512_broadcast_i64x4(_mm256_loadu_si256(bytes.as_ptr().cast())) }
}

/// Words for the first half of a vector, and for the second.
#[inline(always)]
unsafe fn by_half(first: i16, second: i16) -> __m512i {
    // SAFETY: as above.
    unsafe {
        let first = _mm512_castsi256_si512(_mm256_set1_epi16(first));
        _mm512_inserti64x4::<1>(first, _mm256_set1_epi16(second))
    }
}

/// Of 32 bytes the lower halves, then the upper ones; then those of the next 32.
#[inline(always)]
unsafe fn low_and_high(bytes: &[u8; 128]) -> [__m512i; 4] {
    // SAFETY: as above.
    unsafe {
        let both = |start: usize| {
            let shifted = _mm512_srlv_epi16(twice(part(bytes, start)), by_half(0, 4));
            _mm512_and_si512(shifted, _mm512_set1_epi8(15))
        };
        [both(0), both(32), both(64), both(96)]
    }
}

/// Of 32 bytes the lowest two bits of all, then the next two, and so on; then those of the other 32.
#[inline(always)]
unsafe fn quarters(bytes: &[u8; 64]) -> [__m512i; 4] {
    // SAFETY: as above.
    unsafe {
        let two = |start: usize, shifts: __m512i| {
            let shifted = _mm512_srlv_epi16(twice(part(bytes, start)), shifts);
            _mm512_and_si512(shifted, _mm512_set1_epi8(3))
        };
        let (first, second) = (by_half(0, 2), by_half(4, 6));
        [
            two(0, first),
            two(0, second),
            two(32, first),
            two(32, second),
        ]
    }
}

/// Codes plus `more` where their bit is set; of each byte of `bits`, a bit belongs to each unit.
#[inline(always)]
unsafe fn with_bits(codes: [__m512i; 4], bits: &[u8; 32], more: i8) -> [__m512i; 4] {
    // SAFETY: as above.
    unsafe {
        let (bits, more) = (twice(bits), _mm512_set1_epi8(more));
        let add = |codes: __m512i, which: __m512i| {
            _mm512_mask_add_epi8(codes, _mm512_test_epi8_mask(bits, which), codes, more)
        };
        [
            add(codes[0], by_half(0x0101, 0x0202)),
            add(codes[1], by_half(0x0404, 0x0808)),
            add(codes[2], by_half(0x1010, 0x2020)),
            add(codes[3], by_half(0x4040, 0x8080_u16.cast_signed())),
        ]
    }
}

/// Codes of four bits and two more.
#[inline(always)]
unsafe fn six_bits(low: &[u8; 64], high: &[u8; 32]) -> [__m512i; 2] {
    // SAFETY: as above.
    unsafe {
        let (low, high) = (_mm512_loadu_si512(low.as_ptr().cast()), twice(high));
        let (ones, upper) = (_mm512_set1_epi8(15), _mm512_set1_epi8(0x30));
        let first = _mm512_and_si512(_mm512_sllv_epi16(high, by_half(4, 2)), upper);
        let second = _mm512_and_si512(_mm512_srlv_epi16(high, by_half(0, 2)), upper);
        [
            _mm512_or_si512(_mm512_and_si512(low, ones), first),
            _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16::<4>(low), ones), second),
        ]
    }
}
