//! The numbers of a matrix.
//!
//! All ten types of blocks are codes of a few bits in groups that share a scale and, in some, a bias; they
//! differ in how these are packed. A number is code · scale + bias, in `f32`, as llama.cpp computes it.

#[cfg(target_arch = "x86_64")]
use super::lanes::Avx2;
use super::lanes::Lanes;
use crate::backend::kernels::rows;
use crate::backend::ops::blocks::BlockType;

/// A block taken apart. Where its type has no biases, `BIASES` is 0, and `GROUPS` otherwise.
pub(super) struct Block<const EIGHTS: usize, const GROUPS: usize, const BIASES: usize> {
    /// Eight signed bytes each, the first the lowest. As words they stay in registers.
    pub codes: [u64; EIGHTS],
    pub scales: [f32; GROUPS],
    pub biases: [f32; BIASES],
}

/// Takes apart the blocks of a type. A trait, because calls of its functions are always inlined, where the
/// compiler may use more of the processor than elsewhere; those of a function that is passed may not be.
pub(super) trait Decode<
    const BYTES: usize,
    const EIGHTS: usize,
    const GROUPS: usize,
    const BIASES: usize,
>
{
    fn block(bytes: &[u8; BYTES]) -> Block<EIGHTS, GROUPS, BIASES>;
}

/// `$body`, with what decodes blocks of the type `$kind` as the type `$Decoder`.
macro_rules! with_decoder {
    ($kind:expr, $Decoder:ident => $body:expr) => {{
        use crate::backend::kernels::blocks::types;
        use crate::backend::ops::blocks::BlockType;
        match $kind {
            BlockType::Q4_0 => with_decoder!(@ $Decoder, types::Q4_0, $body),
            BlockType::Q4_1 => with_decoder!(@ $Decoder, types::Q4_1, $body),
            BlockType::Q5_0 => with_decoder!(@ $Decoder, types::Q5_0, $body),
            BlockType::Q5_1 => with_decoder!(@ $Decoder, types::Q5_1, $body),
            BlockType::Q8_0 => with_decoder!(@ $Decoder, types::Q8_0, $body),
            BlockType::Q2K => with_decoder!(@ $Decoder, types::Q2K, $body),
            BlockType::Q3K => with_decoder!(@ $Decoder, types::Q3K, $body),
            BlockType::Q4K => with_decoder!(@ $Decoder, types::Q4K, $body),
            BlockType::Q5K => with_decoder!(@ $Decoder, types::Q5K, $body),
            BlockType::Q6K => with_decoder!(@ $Decoder, types::Q6K, $body),
        }
    }};
    (@ $Decoder:ident, $type:path, $body:expr) => {{
        type $Decoder = $type;
        $body
    }};
}
pub(super) use with_decoder;

/// The numbers of a whole matrix with rows of `width` numbers.
pub(in crate::backend) fn decode_all(kind: BlockType, blocks: &[u8], width: usize) -> Vec<f32> {
    let bytes = kind.row_bytes(width);
    rows(blocks.len() / bytes, width, 1, |row, numbers| {
        decode_row(kind, &blocks[row * bytes..][..bytes], numbers);
    })
}

/// The numbers of some rows of a matrix, one after the other. All ids are those of rows.
pub(in crate::backend) fn decode_rows(
    kind: BlockType,
    blocks: &[u8],
    width: usize,
    ids: &[u32],
) -> Vec<f32> {
    let bytes = kind.row_bytes(width);
    rows(ids.len(), width, 1, |index, numbers| {
        let row = ids[index] as usize;
        decode_row(kind, &blocks[row * bytes..][..bytes], numbers);
    })
}

fn decode_row(kind: BlockType, blocks: &[u8], numbers: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            #[allow(unsafe_code, reason = "features that only some processors have")]
            // SAFETY: this processor has both features.
            return unsafe { decode_row_avx2(kind, blocks, numbers) };
        }
    }
    decode_row_portable(kind, blocks, numbers);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn decode_row_avx2(kind: BlockType, blocks: &[u8], numbers: &mut [f32]) {
    with_decoder!(kind, D => decode_with::<Avx2, D, _, _, _, _>(blocks, numbers));
}

fn decode_row_portable(kind: BlockType, blocks: &[u8], numbers: &mut [f32]) {
    with_decoder!(kind, D => decode_with::<[f32; 8], D, _, _, _, _>(blocks, numbers));
}

#[inline(always)]
fn decode_with<
    L: Lanes,
    D: Decode<BYTES, EIGHTS, GROUPS, BIASES>,
    const BYTES: usize,
    const EIGHTS: usize,
    const GROUPS: usize,
    const BIASES: usize,
>(
    blocks: &[u8],
    numbers: &mut [f32],
) {
    let blocks = blocks.as_chunks().0.iter();
    let numbers = numbers.as_chunks_mut().0.chunks_exact_mut(EIGHTS);
    for (block, numbers) in blocks.zip(numbers) {
        let block = D::block(block);
        let groups = numbers.chunks_exact_mut(EIGHTS / GROUPS);
        let codes = block.codes.chunks_exact(EIGHTS / GROUPS);
        for (group, (numbers, codes)) in groups.zip(codes).enumerate() {
            let scale = L::repeat(block.scales[group]);
            for (numbers, &codes) in numbers.iter_mut().zip(codes) {
                let scaled = L::codes(codes).times(scale);
                // Rounded twice, as llama.cpp does it.
                *numbers = match block.biases.get(group) {
                    Some(&bias) => scaled.plus(L::repeat(bias)).numbers(),
                    None => scaled.numbers(),
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_decoders_of_a_row_agree() {
        for kind in BlockType::ALL {
            let blocks: Vec<u8> = (0..kind.row_bytes(1024))
                .map(|i| ((i * 2_654_435_761) >> 7).to_le_bytes()[0])
                .collect();
            let (mut chosen, mut portable) = (vec![0f32; 1024], vec![0f32; 1024]);
            decode_row(kind, &blocks, &mut chosen);
            decode_row_portable(kind, &blocks, &mut portable);
            assert!(portable.iter().any(|x| *x != 0.0));
            for (a, b) in chosen.iter().zip(portable) {
                assert!(
                    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(),
                    "{kind:?}"
                );
            }
        }
    }
}
