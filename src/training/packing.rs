//! Packing: rows put together so that each pack is nearly full.

/// Puts rows into packs of at most `capacity` tokens, each into the first pack that has room: first
/// fit, in `O(n log n)`. Gives the rows of each pack in the order in which they came.
///
/// A row that is longer than the capacity gets a pack of its own.
pub(super) fn first_fit(
    rows: impl IntoIterator<Item = usize>,
    lengths: &[usize],
    capacity: usize,
) -> Vec<Vec<usize>> {
    let mut room = Room::new(lengths.len(), capacity);
    let mut packs: Vec<Vec<usize>> = Vec::new();
    for row in rows {
        let pack = room.take(lengths[row].min(capacity));
        if pack == packs.len() {
            packs.push(Vec::new());
        }
        packs[pack].push(row);
    }
    packs
}

/// The room left in each pack, as a tree whose nodes know the most room below them. Node 1 is the
/// root, the children of `n` are `2n` and `2n + 1`, and packs are the leaves.
struct Room {
    most: Vec<usize>,
    leaves: usize,
}

impl Room {
    fn new(packs: usize, capacity: usize) -> Self {
        let leaves = packs.next_power_of_two();
        Self {
            most: vec![capacity; 2 * leaves],
            leaves,
        }
    }

    /// Takes room from the first pack that has enough, and gives its number. There is one: as many
    /// packs as rows, none of which is longer than a pack.
    fn take(&mut self, length: usize) -> usize {
        let mut node = 1;
        while node < self.leaves {
            node *= 2;
            if self.most[node] < length {
                node += 1;
            }
        }
        let pack = node - self.leaves;
        self.most[node] -= length;
        while node > 1 {
            node /= 2;
            self.most[node] = self.most[2 * node].max(self.most[2 * node + 1]);
        }
        pack
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn each_row_goes_into_the_first_pack_with_room() {
        let packs = first_fit(0..7, &[6, 7, 4, 3, 5, 10, 12], 10);
        assert_eq!(packs, [&[0, 2][..], &[1, 3], &[4], &[5], &[6]]);
        let packs = first_fit([1, 0], &[2, 9], 10);
        assert_eq!(packs, [[1], [0]]);
        assert_eq!(first_fit([0], &[3], 3), [[0]]);
        assert_eq!(first_fit(0..3, &[0, 0, 0], 1), [[0, 1, 2]]);
    }

    #[test]
    fn it_is_the_first_fit_of_the_plain_search() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for rows in [1, 2, 3, 17, 64, 300] {
            let lengths: Vec<_> = (0..rows).map(|_| rng.random_range(1..=100)).collect();
            let mut expected: Vec<(usize, Vec<usize>)> = Vec::new();
            for (row, &length) in lengths.iter().enumerate() {
                match expected.iter_mut().find(|(used, _)| used + length <= 100) {
                    Some((used, pack)) => {
                        *used += length;
                        pack.push(row);
                    }
                    None => expected.push((length, vec![row])),
                }
            }
            let expected: Vec<_> = expected.into_iter().map(|(_, pack)| pack).collect();
            assert_eq!(first_fit(0..rows, &lengths, 100), expected);
        }
    }
}
