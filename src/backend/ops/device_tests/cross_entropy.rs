use super::super::cross_entropy::{cross_entropy, cross_entropy_with_gradient};
use crate::backend::testing::{Layout, on_both};

/// Rows are narrowed into chunks, so they are contiguous; the decoder's come from its norm.
const LAYOUTS: [Layout; 2] = [Layout::Whole, Layout::Offset];

#[test]
fn losses_and_gradients() {
    // Rows, features and vocabulary; the last ones take two chunks.
    for [rows, features, vocabulary] in [
        [1, 3, 1],
        [1, 33, 37],
        [3, 65, 37],
        [33, 33, 1025],
        [3, 65, 6144],
        [343, 3, 6144],
    ] {
        let name = format!("{rows} rows of {features}, {vocabulary} tokens");
        on_both(&name, &LAYOUTS, |make| {
            let hidden = make.tensor(&[rows, features], 1);
            let head = make.tensor(&[vocabulary, features], 2);
            let targets = make.ids(rows, vocabulary);
            let loss = cross_entropy(&hidden, &head, &targets)?;
            let (again, gradient) = cross_entropy_with_gradient(&hidden, &head, &targets)?;
            assert_eq!(gradient.dtype(), hidden.dtype());
            Ok([
                ("loss", loss),
                ("loss beside the gradient", again),
                ("gradient", gradient),
            ])
        });
    }
}

/// The largest logit is taken off before the exponential, so none overflows, not even in `f16`,
/// whose largest number is 65,504.
#[test]
fn logits_in_the_hundreds() {
    on_both("3 rows of 33, 37 tokens", &LAYOUTS, |make| {
        let hidden = (make.tensor(&[3, 33], 1) * 64.0)?;
        let head = (make.tensor(&[37, 33], 2) * 2.0)?;
        let targets = make.ids(3, 37);
        let (loss, gradient) = cross_entropy_with_gradient(&hidden, &head, &targets)?;
        Ok([("loss", loss), ("gradient", gradient)])
    });
}
