//! Blocks taken apart, 32 codes at once.

use super::bytes::Bytes;
use super::types;

/// Codes of `UNITS` times 32 numbers, with the scales and biases of each group of them.
pub(super) struct Span<B, const UNITS: usize, const GROUPS: usize> {
    pub codes: [B; UNITS],
    pub scales: [f32; GROUPS],
    pub biases: [f32; GROUPS],
}

/// What a product with codes needs beside it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Bias {
    /// Nothing: codes are signed bytes. All others are below 64.
    None,
    /// Codes count from so much below zero.
    Offset(u8),
    /// Groups have biases.
    Own,
}

/// A type of blocks of 32 numbers.
pub(super) trait Small<const BYTES: usize> {
    const BIAS: Bias;

    fn codes<B: Bytes>(block: &[u8; BYTES]) -> B;

    /// Some blocks in a row.
    #[inline(always)]
    fn span<B: Bytes, const UNITS: usize>(blocks: &[[u8; BYTES]; UNITS]) -> Span<B, UNITS, UNITS> {
        let (mut scales, mut biases) = ([[0; 2]; UNITS], [[0; 2]; UNITS]);
        let mut codes = [B::repeat(0); UNITS];
        for (unit, block) in blocks.iter().enumerate() {
            scales[unit] = *part(block, 0);
            biases[unit] = *part(block, 2);
            codes[unit] = Self::codes(block);
        }
        let biases = if Self::BIAS == Bias::Own {
            B::halves_to_floats(biases)
        } else {
            [0.0; UNITS]
        };
        Span {
            codes,
            scales: B::halves_to_floats(scales),
            biases,
        }
    }
}

/// A type of blocks of 256 numbers.
pub(super) trait Super<const BYTES: usize, const GROUPS: usize> {
    const BIAS: Bias;

    fn span<B: Bytes>(block: &[u8; BYTES]) -> Span<B, 8, GROUPS>;
}

/// Part of a block. Lengths are constants, so that what is left is the address.
#[inline(always)]
pub(super) fn part<const LEN: usize>(block: &[u8], start: usize) -> &[u8; LEN] {
    let part = block.get(start..).and_then(|rest| rest.first_chunk());
    part.unwrap_or(&[0; LEN])
}

impl Small<18> for types::Q4_0 {
    const BIAS: Bias = Bias::Offset(8);

    #[inline(always)]
    fn codes<B: Bytes>(block: &[u8; 18]) -> B {
        B::halves(part(block, 2))
    }
}

impl Small<20> for types::Q4_1 {
    const BIAS: Bias = Bias::Own;

    #[inline(always)]
    fn codes<B: Bytes>(block: &[u8; 20]) -> B {
        B::halves(part(block, 4))
    }
}

impl Small<22> for types::Q5_0 {
    const BIAS: Bias = Bias::Offset(16);

    #[inline(always)]
    fn codes<B: Bytes>(block: &[u8; 22]) -> B {
        B::halves(part(block, 6)).or(B::spread(*part(block, 2)).and(B::repeat(16)))
    }
}

impl Small<24> for types::Q5_1 {
    const BIAS: Bias = Bias::Own;

    #[inline(always)]
    fn codes<B: Bytes>(block: &[u8; 24]) -> B {
        B::halves(part(block, 8)).or(B::spread(*part(block, 4)).and(B::repeat(16)))
    }
}

impl Small<34> for types::Q8_0 {
    const BIAS: Bias = Bias::None;

    #[inline(always)]
    fn codes<B: Bytes>(block: &[u8; 34]) -> B {
        B::load(part(block, 2))
    }
}

impl Super<84, 16> for types::Q2K {
    const BIAS: Bias = Bias::Own;

    #[inline(always)]
    fn span<B: Bytes>(block: &[u8; 84]) -> Span<B, 8, 16> {
        let (scales, biases) = Self::scales_and_biases(block);
        Span {
            codes: quarters(part(block, 16)),
            scales,
            biases,
        }
    }
}

impl Super<110, 16> for types::Q3K {
    const BIAS: Bias = Bias::Offset(4);

    #[inline(always)]
    fn span<B: Bytes>(block: &[u8; 110]) -> Span<B, 8, 16> {
        Span {
            codes: with_bits(quarters(part(block, 32)), part(block, 0), 2),
            scales: Self::scales(block),
            biases: [0.0; 16],
        }
    }
}

impl Super<144, 8> for types::Q4K {
    const BIAS: Bias = Bias::Own;

    #[inline(always)]
    fn span<B: Bytes>(block: &[u8; 144]) -> Span<B, 8, 8> {
        let (scales, biases) = types::scales_and_biases(part(block, 0));
        Span {
            codes: low_and_high(part(block, 16)),
            scales,
            biases,
        }
    }
}

impl Super<176, 8> for types::Q5K {
    const BIAS: Bias = Bias::Own;

    #[inline(always)]
    fn span<B: Bytes>(block: &[u8; 176]) -> Span<B, 8, 8> {
        let (scales, biases) = types::scales_and_biases(part(block, 0));
        Span {
            codes: with_bits(low_and_high(part(block, 48)), part(block, 16), 4),
            scales,
            biases,
        }
    }
}

impl Super<210, 16> for types::Q6K {
    const BIAS: Bias = Bias::Offset(32);

    #[inline(always)]
    fn span<B: Bytes>(block: &[u8; 210]) -> Span<B, 8, 16> {
        Span {
            codes: six_bits(part(block, 0), part(block, 128)),
            scales: Self::scales(block),
            biases: [0.0; 16],
        }
    }
}

// Written out, because a loop that is not unrolled has shifts that are no constants.

/// Of 32 bytes the lower halves, then the upper ones; then those of the next 32.
#[inline(always)]
fn low_and_high<B: Bytes>(bytes: &[u8; 128]) -> [B; 8] {
    let low = B::repeat(15);
    let [a, b] = [B::load(part(bytes, 0)), B::load(part(bytes, 32))];
    let [c, d] = [B::load(part(bytes, 64)), B::load(part(bytes, 96))];
    [
        a.and(low),
        a.right(4),
        b.and(low),
        b.right(4),
        c.and(low),
        c.right(4),
        d.and(low),
        d.right(4),
    ]
}

/// Of 32 bytes the lowest two bits of all, then the next two, and so on; then those of the other 32.
#[inline(always)]
fn quarters<B: Bytes>(bytes: &[u8; 64]) -> [B; 8] {
    let (low, a, b) = (
        B::repeat(3),
        B::load(part(bytes, 0)),
        B::load(part(bytes, 32)),
    );
    [
        a.and(low),
        a.right(2).and(low),
        a.right(4).and(low),
        a.right(6),
        b.and(low),
        b.right(2).and(low),
        b.right(4).and(low),
        b.right(6),
    ]
}

/// Codes with one bit more at `place`; of each byte of `bits`, a bit belongs to each unit.
#[inline(always)]
fn with_bits<B: Bytes>(codes: [B; 8], bits: &[u8; 32], place: u8) -> [B; 8] {
    let (bits, low) = (B::load(bits), B::repeat(1));
    [
        codes[0].or(bits.and(low).left(place)),
        codes[1].or(bits.right(1).and(low).left(place)),
        codes[2].or(bits.right(2).and(low).left(place)),
        codes[3].or(bits.right(3).and(low).left(place)),
        codes[4].or(bits.right(4).and(low).left(place)),
        codes[5].or(bits.right(5).and(low).left(place)),
        codes[6].or(bits.right(6).and(low).left(place)),
        codes[7].or(bits.right(7).left(place)),
    ]
}

/// Codes of four bits and two more.
#[inline(always)]
fn six_bits<B: Bytes>(low: &[u8; 128], high: &[u8; 64]) -> [B; 8] {
    let (ones, high) = (B::repeat(15), quarters::<B>(high));
    let [a, b] = [B::load(part(low, 0)), B::load(part(low, 32))];
    let [c, d] = [B::load(part(low, 64)), B::load(part(low, 96))];
    [
        a.and(ones).or(high[0].left(4)),
        b.and(ones).or(high[1].left(4)),
        a.right(4).or(high[2].left(4)),
        b.right(4).or(high[3].left(4)),
        c.and(ones).or(high[4].left(4)),
        d.and(ones).or(high[5].left(4)),
        c.right(4).or(high[6].left(4)),
        d.right(4).or(high[7].left(4)),
    ]
}
