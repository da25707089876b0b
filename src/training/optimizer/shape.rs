//! Where each tensor lies in the one flat vector of trained weights.

use super::{State, Step, broken, missing};
use crate::error::Result;
use candle_core::Tensor;

/// The most numbers of small matrices that are computed at once: enough that one more kernel for each
/// of them would be the cost, and no more memory than one matrix of a large model needs.
const GROUP_ELEMENTS: usize = 1 << 22;

/// The place of one tensor in the flat vector of trained weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WeightShape {
    /// Where its numbers start.
    pub offset: usize,
    /// Its dimensions. More than two count as one matrix, whose rows have the last dimension.
    pub dims: Vec<usize>,
    /// Whether it maps one hidden state to another: false for embeddings, heads and vectors.
    pub hidden: bool,
}

impl WeightShape {
    pub(super) fn len(&self) -> usize {
        self.dims.iter().product()
    }

    pub(super) fn is_matrix(&self) -> bool {
        self.dims.len() > 1
    }

    pub(super) fn columns(&self) -> usize {
        self.dims.last().copied().unwrap_or(1)
    }

    /// Rows of a matrix; 1 for a vector.
    pub(super) fn rows(&self) -> usize {
        self.dims.iter().rev().skip(1).product()
    }
}

/// Numbers of all tensors.
pub(super) fn len(shapes: &[WeightShape]) -> usize {
    shapes.iter().map(WeightShape::len).sum()
}

/// The length of the flat vector, of which the tensors must take each number once and in order.
pub(super) fn total(shapes: &[WeightShape]) -> Result<usize> {
    shapes.iter().try_fold(0, |end, shape| {
        if shape.offset == end {
            Ok(end + shape.len())
        } else {
            let start = shape.offset;
            Err(broken(format!("a tensor starts at {start}, not at {end}")))
        }
    })
}

/// Tensors of the same dimensions, computed at once as one of shape (n, rows, columns).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub matrix: bool,
    pub rows: usize,
    pub columns: usize,
    /// Where its tensors start in the flat vector.
    pub offsets: Vec<usize>,
}

impl Group {
    /// Its tensors out of a flat vector, as (n, rows, columns).
    pub(super) fn gather(&self, flat: &Tensor) -> Result<Tensor> {
        let len = self.rows * self.columns;
        let parts: Vec<(usize, usize)> = self.offsets.iter().map(|&start| (start, len)).collect();
        let shape = (self.offsets.len(), self.rows, self.columns);
        Ok(gather(flat, &parts)?.reshape(shape)?)
    }
}

/// The groups of these tensors.
///
/// In a state, parts of groups follow each other in this order: tensors of the same dimensions
/// together, those first whose first tensor comes first. How many of them make one group does not
/// matter to it.
pub(super) fn groups<'a>(shapes: impl Iterator<Item = &'a WeightShape>) -> Vec<Group> {
    let mut kinds: Vec<Group> = vec![];
    for shape in shapes.filter(|shape| shape.len() > 0) {
        let (matrix, rows, columns) = (shape.is_matrix(), shape.rows(), shape.columns());
        let same =
            |kind: &&mut Group| (kind.matrix, kind.rows, kind.columns) == (matrix, rows, columns);
        match kinds.iter_mut().find(same) {
            Some(kind) => kind.offsets.push(shape.offset),
            None => kinds.push(Group {
                matrix,
                rows,
                columns,
                offsets: vec![shape.offset],
            }),
        }
    }
    kinds
        .into_iter()
        .flat_map(|kind| {
            let at_once = (GROUP_ELEMENTS / (kind.rows * kind.columns)).max(1);
            let chunks: Vec<Group> = kind
                .offsets
                .chunks(at_once)
                .map(|offsets| Group {
                    offsets: offsets.to_vec(),
                    ..kind
                })
                .collect();
            chunks
        })
        .collect()
}

/// The numbers at these places (start and length) of a flat vector, one after the other.
pub(super) fn gather(flat: &Tensor, places: &[(usize, usize)]) -> Result<Tensor> {
    let parts: Vec<Tensor> = places
        .iter()
        .map(|&(start, len)| flat.narrow(0, start, len))
        .collect::<candle_core::Result<_>>()?;
    Ok(Tensor::cat(&parts, 0)?)
}

/// A flat vector that is made in pieces.
#[derive(Debug, Default)]
pub(super) struct Pieces(Vec<(usize, Tensor)>);

impl Pieces {
    /// Takes the tensors of a group, of shape (n, rows, columns).
    pub(super) fn put(&mut self, group: &Group, tensors: &Tensor) -> Result<()> {
        let len = group.rows * group.columns;
        let places: Vec<(usize, usize)> = group.offsets.iter().map(|&start| (start, len)).collect();
        self.put_all(&places, &tensors.flatten_all()?)
    }

    /// Takes the numbers of these places, one after the other.
    pub(super) fn put_all(&mut self, places: &[(usize, usize)], numbers: &Tensor) -> Result<()> {
        let mut from = 0;
        for &(start, len) in places {
            self.0.push((start, numbers.narrow(0, from, len)?));
            from += len;
        }
        Ok(())
    }

    /// The vector, when all of its pieces are there.
    pub(super) fn join(mut self) -> Result<Tensor> {
        self.0.sort_by_key(|&(start, _)| start);
        let parts: Vec<Tensor> = self.0.into_iter().map(|(_, part)| part).collect();
        Ok(Tensor::cat(&parts, 0)?)
    }
}

/// A part of a state, of which one group after the other takes its own.
pub(super) struct Parts<'a> {
    name: &'static str,
    old: Option<&'a Tensor>,
    from: usize,
    new: Vec<Tensor>,
}

impl<'a> Parts<'a> {
    pub(super) fn of(step: &Step<'a>, name: &'static str) -> Self {
        let old = step.state.iter().find(|(part, _)| *part == name);
        Self {
            name,
            old: old.map(|(_, tensor)| tensor),
            from: 0,
            new: vec![],
        }
    }

    /// What comes to `keep` shares of the old numbers and `1 - keep` shares of these.
    pub(super) fn average(&mut self, numbers: &Tensor, keep: f64) -> Result<Tensor> {
        let len = numbers.elem_count();
        let old = self.old.ok_or_else(|| missing(self.name))?;
        let old = old.narrow(0, self.from, len)?.reshape(numbers.shape())?;
        let new = ((old * keep)? + (numbers * (1.0 - keep))?)?;
        self.from += len;
        self.new.push(new.flatten_all()?);
        Ok(new)
    }

    /// Adds the new numbers to a state, where there are any.
    pub(super) fn finish(self, state: &mut State) -> Result<()> {
        if !self.new.is_empty() {
            state.push((self.name, Tensor::cat(&self.new, 0)?));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::ops::gradcheck::random;
    use crate::backend::testing::read;

    fn shape(offset: usize, dims: &[usize]) -> WeightShape {
        WeightShape {
            offset,
            dims: dims.to_vec(),
            hidden: true,
        }
    }

    #[test]
    fn tensors_of_the_same_dimensions_are_one_group() {
        let shapes = [
            shape(0, &[2, 3]),
            shape(6, &[3]),
            shape(9, &[1, 3]),
            shape(12, &[0, 7]),
            shape(12, &[2, 3]),
        ];
        let groups = groups(shapes.iter());
        let found: Vec<_> = groups
            .iter()
            .map(|g| (g.matrix, g.rows, g.columns, g.offsets.as_slice()))
            .collect();
        let expected: [(bool, usize, usize, &[usize]); 3] = [
            (true, 2, 3, &[0, 12]),
            (false, 1, 3, &[6]),
            (true, 1, 3, &[9]),
        ];
        assert_eq!(found, expected);

        // What is gathered and put back is the same vector.
        let flat = random(&[18], 1);
        let mut pieces = Pieces::default();
        for group in groups.iter().rev() {
            pieces.put(group, &group.gather(&flat).unwrap()).unwrap();
        }
        assert_eq!(read(&pieces.join().unwrap()), read(&flat));
    }

    #[test]
    fn large_matrices_are_computed_one_by_one() {
        let (wide, narrow) = (GROUP_ELEMENTS / 4, GROUP_ELEMENTS / 8);
        let shapes: Vec<_> = (0..5)
            .flat_map(|i| [shape(i, &[4, wide + 1]), shape(10 * i, &[4, narrow])])
            .collect();
        let sizes: Vec<usize> = groups(shapes.iter())
            .iter()
            .map(|g| g.offsets.len())
            .collect();
        assert_eq!(sizes, [1, 1, 1, 1, 1, 2, 2, 1]);
    }
}
