//! Matrix products that scale, add to what is there, or give another dtype, as cuBLAS can.

use super::launch::{address, fresh, unfit};
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::cublas::{result::gemm_strided_batched_ex, sys};
use candle_core::{DType, Result, Tensor};

/// A matrix as it lies in memory, or several, one after the other.
struct Factor {
    address: u64,
    /// Numbers from one row to the next, or where it is turned, from one column to the next.
    leading: usize,
    turned: bool,
    count: usize,
    stride: usize,
}

impl Factor {
    /// None for what lies otherwise.
    fn of(x: &Tensor) -> Result<Option<Self>> {
        let [batch @ .., rows, columns] = x.dims() else {
            return Ok(None);
        };
        let [strides @ .., by_row, by_column] = x.stride() else {
            return Ok(None);
        };
        let (leading, turned) = if *by_column == 1 && (by_row >= columns || *rows == 1) {
            ((*by_row).max(*columns), false)
        } else if *by_row == 1 && (by_column >= rows || *columns == 1) {
            ((*by_column).max(*rows), true)
        } else {
            return Ok(None);
        };
        let (mut count, mut stride) = (1, 0);
        for (&len, &by) in batch
            .iter()
            .zip(strides)
            .rev()
            .filter(|(len, _)| **len != 1)
        {
            if count == 1 {
                stride = by;
            } else if by != stride * count {
                return Ok(None);
            }
            count *= len;
        }
        Ok(Some(Self {
            address: address(x)?,
            leading,
            turned,
            count,
            stride,
        }))
    }
}

/// `scale · a b` in `dtype`, that of the factors or `f32`, for `a` of shape (.., m, k) and `b` of shape (.., k, n):
/// matrices on an NVIDIA GPU, of which rows or columns are contiguous and which follow each other at one distance.
/// Products are added up and scaled in `f32`.
pub(in crate::backend) fn product(
    a: &Tensor,
    b: &Tensor,
    scale: f32,
    dtype: DType,
) -> Result<Tensor> {
    let (Some((_, shape)), Some(n)) = (a.dims().split_last(), b.dims().last()) else {
        return Err(unfit("a factor that is no matrix"));
    };
    let y = fresh([shape, &[*n]].concat(), dtype, a.device())?;
    multiply(&y, a, b, scale, 0.0)?;
    Ok(y)
}

/// `y += scale · a b` for a contiguous `y`, which must have no other holder.
pub(in crate::backend) fn add_product(
    y: &Tensor,
    a: &Tensor,
    b: &Tensor,
    scale: f32,
) -> Result<()> {
    multiply(y, a, b, scale, 1.0)
}

fn multiply(y: &Tensor, a: &Tensor, b: &Tensor, scale: f32, keep: f32) -> Result<()> {
    let ([batch @ .., rows, inner], [of_b @ .., of_inner, columns]) = (a.dims(), b.dims()) else {
        return Err(unfit("a factor that is no matrix"));
    };
    let of_y = [batch, &[*rows, *columns]].concat();
    let dtypes = a.dtype() == b.dtype() && [a.dtype(), DType::F32].contains(&y.dtype());
    if inner != of_inner || batch != of_b || y.dims() != of_y || !dtypes || !y.is_contiguous() {
        return Err(unfit("factors that do not fit"));
    }
    let (Some(a_factor), Some(b_factor)) = (Factor::of(a)?, Factor::of(b)?) else {
        return Err(unfit("a factor whose rows and columns are not contiguous"));
    };
    if y.elem_count() == 0 {
        return Ok(());
    }
    let operation = |factor: &Factor| {
        if factor.turned {
            sys::cublasOperation_t::CUBLAS_OP_T
        } else {
            sys::cublasOperation_t::CUBLAS_OP_N
        }
    };
    let number_type = |x: &Tensor| match x.dtype() {
        DType::BF16 => Ok(sys::cudaDataType_t::CUDA_R_16BF),
        DType::F16 => Ok(sys::cudaDataType_t::CUDA_R_16F),
        DType::F32 => Ok(sys::cudaDataType_t::CUDA_R_32F),
        _ => Err(unfit("a tensor of another dtype")),
    };
    let int = |number: usize| i32::try_from(number).map_err(candle_core::Error::wrap);
    let long = |number: usize| i64::try_from(number).map_err(candle_core::Error::wrap);
    let place = address(y)?;
    let cublas = y.device().as_cuda_device()?.cublas_handle();
    // cuBLAS has columns where these are rows: for it the product is bᵀ aᵀ.
    // SAFETY: factors are matrices of these shapes at these places, `y` is contiguous, of the shape of the product,
    // and new or its caller's alone. All live until this call has queued the product on the one stream. Scalars are
    // on the host and read during the call.
    unsafe {
        gemm_strided_batched_ex(
            *cublas.handle(),
            operation(&b_factor),
            operation(&a_factor),
            int(*columns)?,
            int(*rows)?,
            int(*inner)?,
            (&raw const scale).cast(),
            b_factor.address as *const _,
            number_type(b)?,
            int(b_factor.leading)?,
            long(b_factor.stride)?,
            a_factor.address as *const _,
            number_type(a)?,
            int(a_factor.leading)?,
            long(a_factor.stride)?,
            (&raw const keep).cast(),
            place as *mut _,
            number_type(y)?,
            int(*columns)?,
            long(rows * columns)?,
            int(a_factor.count)?,
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP,
        )
    }
    .w()
}
