use super::super::cross_entropy::{
    LossOptions, cross_entropy_with_gradient, negative_log_likelihood,
};
use super::super::matrix::Matrix;
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
            let head = Matrix::Dense(make.tensor(&[vocabulary, features], 2));
            let targets = make.ids(rows, vocabulary);
            let each = negative_log_likelihood(&hidden, &head, &targets)?;
            let plain = LossOptions::default();
            let plain = cross_entropy_with_gradient(&hidden, &head, &targets, plain)?;
            assert_eq!(plain.hidden.dtype(), hidden.dtype());
            let weights: Vec<f32> = (0..rows).map(|row| [0.5, 0.0, -2.0][row % 3]).collect();
            let options = LossOptions {
                weights: Some(&weights),
                // Of one token nothing is spread, and what remains is rounding.
                label_smoothing: if vocabulary > 1 { 0.1 } else { 0.0 },
                trains_head: true,
            };
            let weighted = cross_entropy_with_gradient(&hidden, &head, &targets, options)?;
            Ok([
                ("losses", each),
                ("loss", plain.loss),
                ("gradient", plain.hidden),
                ("weighted loss", weighted.loss),
                ("weighted gradient", weighted.hidden),
                ("gradient of the head", weighted.head.unwrap()),
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
        let head = Matrix::Dense((make.tensor(&[37, 33], 2) * 2.0)?);
        let targets = make.ids(3, 37);
        let options = LossOptions::default();
        let found = cross_entropy_with_gradient(&hidden, &head, &targets, options)?;
        Ok([("loss", found.loss), ("gradient", found.hidden)])
    });
}
