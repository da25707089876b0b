//! The ten types of blocks, as llama.cpp defines them
//! (<https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-quants.c>).
//!
//! Bytes that make no sense cannot be told from others, so every pattern is some block.

use super::decode::{Block, Decode};

pub(super) struct Q4_0;

impl Decode<18, 4, 1, 0> for Q4_0 {
    #[inline(always)]
    fn block(bytes: &[u8; 18]) -> Block<4, 1, 0> {
        let [d0, d1, codes @ ..] = bytes;
        Block {
            codes: halves(*codes).map(|codes| less(codes, 8)),
            scales: [f16_to_f32([*d0, *d1])],
            biases: [],
        }
    }
}

pub(super) struct Q4_1;

impl Decode<20, 4, 1, 1> for Q4_1 {
    #[inline(always)]
    fn block(bytes: &[u8; 20]) -> Block<4, 1, 1> {
        let [d0, d1, m0, m1, codes @ ..] = bytes;
        Block {
            codes: halves(*codes),
            scales: [f16_to_f32([*d0, *d1])],
            biases: [f16_to_f32([*m0, *m1])],
        }
    }
}

pub(super) struct Q5_0;

impl Decode<22, 4, 1, 0> for Q5_0 {
    #[inline(always)]
    fn block(bytes: &[u8; 22]) -> Block<4, 1, 0> {
        let [d0, d1, h0, h1, h2, h3, codes @ ..] = bytes;
        Block {
            codes: with_fifth_bits(halves(*codes), [*h0, *h1, *h2, *h3])
                .map(|codes| less(codes, 16)),
            scales: [f16_to_f32([*d0, *d1])],
            biases: [],
        }
    }
}

pub(super) struct Q5_1;

impl Decode<24, 4, 1, 1> for Q5_1 {
    #[inline(always)]
    fn block(bytes: &[u8; 24]) -> Block<4, 1, 1> {
        let [d0, d1, m0, m1, h0, h1, h2, h3, codes @ ..] = bytes;
        Block {
            codes: with_fifth_bits(halves(*codes), [*h0, *h1, *h2, *h3]),
            scales: [f16_to_f32([*d0, *d1])],
            biases: [f16_to_f32([*m0, *m1])],
        }
    }
}

pub(super) struct Q8_0;

impl Decode<34, 4, 1, 0> for Q8_0 {
    #[inline(always)]
    fn block(bytes: &[u8; 34]) -> Block<4, 1, 0> {
        let [d0, d1, codes @ ..] = bytes;
        Block {
            codes: words(*codes),
            scales: [f16_to_f32([*d0, *d1])],
            biases: [],
        }
    }
}

pub(super) struct Q2K;

impl Decode<84, 32, 16, 16> for Q2K {
    #[inline(always)]
    fn block(bytes: &[u8; 84]) -> Block<32, 16, 16> {
        let (_, low) = split::<16, 64>(bytes);
        let (scales, biases) = Self::scales_and_biases(bytes);
        Block {
            codes: words(quarters(low)),
            scales,
            biases,
        }
    }
}

impl Q2K {
    /// The 16 scales and biases of four bits each, times those of the block.
    #[inline(always)]
    pub(super) fn scales_and_biases(bytes: &[u8; 84]) -> ([f32; 16], [f32; 16]) {
        let (parts, rest) = split::<16, 68>(bytes);
        let (_, [d0, d1, m0, m1]) = split::<64, 4>(rest);
        let (scale, bias) = (f16_to_f32([*d0, *d1]), f16_to_f32([*m0, *m1]));
        (
            parts.map(|part| scale * f32::from(part & 15)),
            parts.map(|part| -(bias * f32::from(part >> 4))),
        )
    }
}

pub(super) struct Q3K;

impl Decode<110, 32, 16, 0> for Q3K {
    #[inline(always)]
    fn block(bytes: &[u8; 110]) -> Block<32, 16, 0> {
        let (high, low) = split::<32, 64>(bytes);
        let mut codes = quarters(low);
        for (bit, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (code, high) in codes.iter_mut().zip(high) {
                *code = code.wrapping_sub((!high >> bit & 1) << 2);
            }
        }
        Block {
            codes: words(codes),
            scales: Self::scales(bytes),
            biases: [],
        }
    }
}

impl Q3K {
    /// The 16 scales of six bits each, times that of the block.
    #[inline(always)]
    pub(super) fn scales(bytes: &[u8; 110]) -> [f32; 16] {
        let (_, [d0, d1]) = split::<108, 2>(bytes);
        let d = f16_to_f32([*d0, *d1]);
        let parts = Self::parts(bytes).map(u64::to_le_bytes);
        let scales = parts.as_flattened().iter();
        let mut scales = scales.map(|part| d * (f32::from(*part) - 32.0));
        std::array::from_fn(|_| scales.next().unwrap_or(0.0))
    }

    /// The 16 scales of six bits each, of which four are in one of 8 bytes, and two in one of 4 more.
    #[inline(always)]
    pub(super) fn parts(bytes: &[u8; 110]) -> [u64; 2] {
        let (_, parts) = split::<96, 12>(bytes);
        let (low, high) = split::<8, 4>(parts);
        let (low, high) = (u64::from_le_bytes(*low), u32::from_le_bytes(*high));
        let (four, two) = (0x0f0f_0f0f_0f0f_0f0f, 0x3030_3030);
        let two = |a: u32, b: u32| u64::from(a & two) | u64::from(b & two) << 32;
        [
            low & four | two(high << 4, high << 2),
            low >> 4 & four | two(high, high >> 2),
        ]
    }
}

pub(super) struct Q4K;

impl Decode<144, 32, 8, 8> for Q4K {
    #[inline(always)]
    fn block(bytes: &[u8; 144]) -> Block<32, 8, 8> {
        let (head, low) = split::<16, 128>(bytes);
        let (scales, biases) = scales_and_biases(head);
        let mut codes = [0; 256];
        for (codes, low) in codes.as_chunks_mut().0.iter_mut().zip(low.as_chunks().0) {
            *codes = low_and_high::<32, 64>(low);
        }
        Block {
            codes: words(codes),
            scales,
            biases,
        }
    }
}

pub(super) struct Q5K;

impl Decode<176, 32, 8, 8> for Q5K {
    #[inline(always)]
    fn block(bytes: &[u8; 176]) -> Block<32, 8, 8> {
        let (head, rest) = split::<16, 160>(bytes);
        let (high, low) = split::<32, 128>(rest);
        let (scales, biases) = scales_and_biases(head);
        let mut codes = [0; 256];
        for (codes, low) in codes.as_chunks_mut().0.iter_mut().zip(low.as_chunks().0) {
            *codes = low_and_high::<32, 64>(low);
        }
        for (bit, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (code, high) in codes.iter_mut().zip(high) {
                *code |= (high >> bit & 1) << 4;
            }
        }
        Block {
            codes: words(codes),
            scales,
            biases,
        }
    }
}

pub(super) struct Q6K;

impl Decode<210, 32, 16, 0> for Q6K {
    #[inline(always)]
    fn block(bytes: &[u8; 210]) -> Block<32, 16, 0> {
        let (low, high) = split::<128, 64>(bytes);
        let mut codes = [0; 256];
        for (codes, low) in codes.as_chunks_mut().0.iter_mut().zip(low.as_chunks().0) {
            *codes = low_and_high::<64, 128>(low);
        }
        for (code, high) in codes.iter_mut().zip(quarters(high)) {
            *code = (*code | high << 4).wrapping_sub(32);
        }
        Block {
            codes: words(codes),
            scales: Self::scales(bytes),
            biases: [],
        }
    }
}

impl Q6K {
    /// The 16 scales of eight bits each, times that of the block.
    #[inline(always)]
    pub(super) fn scales(bytes: &[u8; 210]) -> [f32; 16] {
        let (_, parts) = split::<192, 18>(bytes);
        let (parts, d) = split::<16, 2>(parts);
        let d = f16_to_f32(*d);
        parts.map(|part| d * f32::from(part.cast_signed()))
    }
}

/// The first two parts of an array.
#[inline(always)]
fn split<const A: usize, const B: usize>(bytes: &[u8]) -> (&[u8; A], &[u8; B]) {
    let parts = bytes.split_first_chunk::<A>();
    match parts.and_then(|(a, b)| Some((a, b.first_chunk()?))) {
        Some(parts) => parts,
        None => (&[0; A], &[0; B]),
    }
}

/// The lower halves of all bytes, then the upper ones.
#[inline(always)]
fn low_and_high<const BYTES: usize, const CODES: usize>(bytes: &[u8; BYTES]) -> [u8; CODES] {
    let mut codes = [0; CODES];
    let (low, high) = codes.split_at_mut(BYTES);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
        *low = byte & 15;
        *high = byte >> 4;
    }
    codes
}

/// Of 32 bytes the lowest two bits of all, then the next two, and so on; then those of the other 32.
#[inline(always)]
fn quarters(bytes: &[u8; 64]) -> [u8; 256] {
    let mut codes = [0; 256];
    let parts = codes.as_chunks_mut::<128>().0.iter_mut();
    for (codes, bytes) in parts.zip(bytes.as_chunks::<32>().0) {
        for (part, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (code, byte) in codes.iter_mut().zip(bytes) {
                *code = byte >> (2 * part) & 3;
            }
        }
    }
    codes
}

/// The words of codes.
#[inline(always)]
fn words<const CODES: usize, const EIGHTS: usize>(codes: [u8; CODES]) -> [u64; EIGHTS] {
    let mut words = [0; EIGHTS];
    for (word, codes) in words.iter_mut().zip(codes.as_chunks().0) {
        *word = u64::from_le_bytes(*codes);
    }
    words
}

/// One in each byte of a word.
const ONES: u64 = 0x0101_0101_0101_0101;

/// [`low_and_high`] for 16 bytes.
#[inline(always)]
fn halves(bytes: [u8; 16]) -> [u64; 4] {
    let [a, b] = words(bytes);
    let low = |word: u64| word & (15 * ONES);
    [low(a), low(b), low(a >> 4), low(b >> 4)]
}

/// Codes of five bits, of which the highest lie by themselves, in the order of the codes.
#[inline(always)]
fn with_fifth_bits(codes: [u64; 4], bits: [u8; 4]) -> [u64; 4] {
    std::array::from_fn(|eight| {
        // Byte i has bit i only; with what it lacks to 128, the highest bit says whether it was set.
        let each = (u64::from(bits[eight]) * ONES) & 0x8040_2010_0804_0201;
        let highest = each + 0x0040_6070_787c_7e7f;
        codes[eight] | (highest >> 3 & (16 * ONES))
    })
}

/// Codes less `offset`, without a borrow from one to the next.
#[inline(always)]
fn less(codes: u64, offset: u64) -> u64 {
    ((codes | (128 * ONES)) - offset * ONES) ^ (128 * ONES)
}

/// The eight scales and biases of six bits each, times those of the block.
#[inline(always)]
pub(super) fn scales_and_biases(head: &[u8; 16]) -> ([f32; 8], [f32; 8]) {
    let [d0, d1, m0, m1, ..] = head;
    let (scale, bias) = (f16_to_f32([*d0, *d1]), f16_to_f32([*m0, *m1]));
    let (scales, biases) = scale_and_bias_parts(head);
    (
        scales.to_le_bytes().map(|part| scale * f32::from(part)),
        (biases.to_le_bytes()).map(|part| -(bias * f32::from(part))),
    )
}

/// The eight scales and biases of six bits each, a byte each.
#[inline(always)]
pub(super) fn scale_and_bias_parts(head: &[u8; 16]) -> (u64, u64) {
    let (_, parts) = split::<4, 12>(head);
    // Four bytes at once. The first four parts are whole, with the upper two bits of the last four above them.
    let [first, second, rest] = {
        let (words, _) = parts.as_chunks();
        std::array::from_fn(|word| words.get(word).map_or(0, |word| u32::from_le_bytes(*word)))
    };
    let (low, four, two) = (0x3f3f_3f3f, 0x0f0f_0f0f, 0x3030_3030);
    let eight = |first: u32, last: u32| u64::from(first) | u64::from(last) << 32;
    (
        eight(first & low, rest & four | first >> 2 & two),
        eight(second & low, rest >> 4 & four | second >> 2 & two),
    )
}

/// An `f16`. The usual conversion asks for each number what the processor can do; and the smallest ones are
/// common here, so they must not become `f32` that are slow.
#[inline(always)]
pub(super) fn f16_to_f32(bytes: [u8; 2]) -> f32 {
    let bits = u16::from_le_bytes(bytes);
    let sign = u32::from(bits & 0x8000) << 16;
    let rest = u32::from(bits & 0x7fff) << 13;
    let magnitude = match bits & 0x7c00 {
        0 => (f32::from(bits & 0x3ff) / 16_777_216.0).to_bits(),
        // Infinite or no number, as it was.
        0x7c00 => rest + ((255 - 31) << 23),
        _ => rest + ((127 - 15) << 23),
    };
    f32::from_bits(sign | magnitude)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Tensor};

    #[test]
    fn every_f16_is_widened_as_always() {
        let bytes: Vec<[u8; 2]> = (0..=u16::MAX).map(u16::to_le_bytes).collect();
        let x = Tensor::from_raw_buffer(bytes.as_flattened(), DType::F16, &[65_536], &Device::Cpu);
        let expected = x.unwrap().to_dtype(DType::F32).unwrap().to_vec1::<f32>();
        for (bytes, expected) in bytes.into_iter().zip(expected.unwrap()) {
            let found = f16_to_f32(bytes);
            assert!(found.is_nan() == expected.is_nan());
            assert!(
                found.is_nan() || found.to_bits() == expected.to_bits(),
                "{bytes:?}"
            );
        }
    }
}
