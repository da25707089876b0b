//! The frequencies of the rotary embedding that a configuration asks for.

use super::{ModelConfig, RopeScaling};

/// What `YaRN` multiplies cosines and sines by where a model does not say.
pub(crate) fn yarn_attention_factor(factor: f64) -> f64 {
    0.1 * factor.max(1.0).ln() + 1.0
}

/// The inverse frequencies (`head_dim` / 2 of them) and the factor of cosines and sines.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "dimensions and context lengths fit f64; tables are f32 by design"
)]
pub(crate) fn frequencies(config: &ModelConfig) -> (Vec<f32>, f64) {
    let dim = config.head_dim as f64;
    let plain = (0..config.head_dim / 2).map(|i| config.rope_theta.powf(-2.0 * i as f64 / dim));
    match &config.rope_scaling {
        RopeScaling::None => (plain.map(|f| f as f32).collect(), 1.0),
        RopeScaling::Linear { factor } => (plain.map(|f| (f / factor) as f32).collect(), 1.0),
        // As many factors as frequencies, which was checked when the configuration was read.
        RopeScaling::Factors { factors } => {
            let scaled = plain.zip(factors).map(|(f, factor)| (f / factor) as f32);
            (scaled.collect(), 1.0)
        }
        // YaRN (Peng et al., 2023, https://arxiv.org/abs/2309.00071): frequencies that turn often
        // within the original context stay, those that turn less than once are interpolated, and
        // between the two there is a ramp.
        RopeScaling::Yarn {
            factor,
            original_max_position_embeddings,
            beta_fast,
            beta_slow,
            attention_factor,
        } => {
            let original = *original_max_position_embeddings as f64;
            let dimension_of = |rotations: f64| {
                dim * (original / (rotations * 2.0 * std::f64::consts::PI)).ln()
                    / (2.0 * config.rope_theta.ln())
            };
            let low = dimension_of(*beta_fast).floor().max(0.0);
            let high = dimension_of(*beta_slow).ceil().min(dim - 1.0);
            let width = if high > low { high - low } else { 0.001 };
            let scaled = plain
                .enumerate()
                .map(|(i, f)| {
                    let ramp = ((i as f64 - low) / width).clamp(0.0, 1.0);
                    (f / factor * ramp + f * (1.0 - ramp)) as f32
                })
                .collect();
            let scale = attention_factor.unwrap_or_else(|| yarn_attention_factor(*factor));
            (scaled, scale)
        }
        // Llama 3.1 (https://arxiv.org/abs/2407.21783; the formula is that of its reference code).
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let original = *original_max_position_embeddings as f64;
            let scaled = plain
                .map(|f| {
                    // How often the dimension turns within the original context.
                    let turns = original * f / (2.0 * std::f64::consts::PI);
                    let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    let kept = kept.clamp(0.0, 1.0);
                    (f / factor * (1.0 - kept) + f * kept) as f32
                })
                .collect();
            (scaled, 1.0)
        }
    }
}
