//! The losses of training on pairs of a better and a worse answer.

use super::named;
use crate::error::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The least mean negative log-likelihood that odds are computed from: that of the largest probability
/// below 1 that a loss in `f32` can tell from it. Odds and their slope have no limit beyond.
const LEAST_MEAN: f64 = 1e-7;

/// How a model learns to prefer one answer to another.
///
/// In JSON it is a name in lower case, or an object with a `name` and settings; those that are left out
/// have their defaults, and unknown ones are errors.
///
/// # Example
///
/// ```
/// use metal_candle::training::{AnswerLikelihood, PreferenceLoss};
///
/// let loss = PreferenceLoss::from_json(r#"{"name": "dpo", "beta": 0.2}"#)?;
/// // As likely as for the reference model: nothing is preferred yet.
/// let answer = AnswerLikelihood { nll: 31.0, tokens: 20, reference_nll: 31.0 };
/// let pair = loss.pair(&answer, &answer);
/// assert_eq!(pair.loss, 2f64.ln());
/// assert_eq!(pair.chosen_weight, 0.1);
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(
    remote = "Self",
    tag = "name",
    rename_all = "lowercase",
    deny_unknown_fields
)]
#[non_exhaustive]
pub enum PreferenceLoss {
    /// Direct preference optimisation (Rafailov et al., 2023, <https://arxiv.org/abs/2305.18290>).
    ///
    /// The loss is -log σ(h), with h the reward of the chosen answer less that of the rejected one,
    /// and a reward `beta` times the logarithm of how much likelier an answer is than for the
    /// reference, which is the model before training.
    Dpo {
        /// How closely the model is held to the reference; the smaller, the further it may go. Above
        /// 0. Default 0.1, as in the paper and in TRL.
        #[serde(default = "one_tenth")]
        beta: f64,
        /// The share of pairs that may be the wrong way round, 0 or more and below 0.5 (conservative
        /// DPO, Mitchell, 2023, <https://ericmitchell.ai/cdpo.pdf>). Default 0.
        #[serde(default)]
        label_smoothing: f64,
    },
    /// Odds ratio preference optimisation (Hong et al., 2024, <https://arxiv.org/abs/2403.07691>).
    ///
    /// The loss is the mean negative log-likelihood of the chosen answer's tokens, and `lambda` times
    /// -log σ of the logarithm of the ratio of the answers' odds p / (1 - p), with p the geometric mean
    /// of the probabilities of an answer's tokens. There is no reference.
    Orpo {
        /// The weight of the odds ratio, above 0. Default 0.1, as in the paper and in TRL, where it is
        /// `beta`.
        #[serde(default = "one_tenth")]
        lambda: f64,
    },
}

fn one_tenth() -> f64 {
    0.1
}

/// How likely an answer is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnswerLikelihood {
    /// The sum of the negative log-likelihoods of its tokens, in nats.
    pub nll: f64,
    /// Its tokens, at least 1.
    pub tokens: usize,
    /// The same sum for the reference model; not used by a loss without one.
    pub reference_nll: f64,
}

/// The loss of one pair, and what it says about the model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairLoss {
    /// The loss, in nats.
    pub loss: f64,
    /// The derivative of the loss with respect to [`nll`](AnswerLikelihood::nll) of the chosen answer:
    /// the weight of the negative log-likelihood of each of its tokens in the backward.
    pub chosen_weight: f64,
    /// The same for the rejected answer. It is not above 0, so that the answer becomes less likely,
    /// except with label smoothing.
    pub rejected_weight: f64,
    /// The reward of the chosen answer. For ORPO it is `lambda` times the mean log-likelihood of the
    /// tokens, as in TRL.
    pub chosen_reward: f64,
    /// The reward of the rejected answer.
    pub rejected_reward: f64,
}

impl PairLoss {
    /// How much higher the reward of the chosen answer is.
    #[must_use]
    pub fn margin(&self) -> f64 {
        self.chosen_reward - self.rejected_reward
    }

    /// Whether the chosen answer has the higher reward. The share of such pairs is the accuracy.
    #[must_use]
    pub fn is_accurate(&self) -> bool {
        self.chosen_reward > self.rejected_reward
    }
}

impl PreferenceLoss {
    /// `dpo` or `orpo`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Dpo { .. } => "dpo",
            Self::Orpo { .. } => "orpo",
        }
    }

    /// The loss by its name, with its defaults.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for any other name than `dpo` and `orpo`.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "dpo" => Ok(Self::Dpo {
                beta: one_tenth(),
                label_smoothing: 0.0,
            }),
            "orpo" => Ok(Self::Orpo {
                lambda: one_tenth(),
            }),
            _ => Err(Error::option(
                "preference_loss",
                format!("`{name}`"),
                "`dpo` or `orpo`",
            )),
        }
    }

    /// Reads a loss from JSON: a name, or an object with a `name` and settings.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] that says what is wrong. Ranges are checked by
    /// [`PreferenceLoss::validate`].
    pub fn from_json(json: &str) -> Result<Self> {
        serde_json::from_str(json).map_err(|error| {
            Error::option(
                "preference_loss",
                format!("not understood ({error})"),
                "`dpo` or `orpo`, or an object with this `name` and settings",
            )
        })
    }

    /// Checks the ranges of all settings.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] that names the setting and its range.
    pub fn validate(&self) -> Result<()> {
        let (name, strength) = match *self {
            Self::Dpo { beta, .. } => ("beta", beta),
            Self::Orpo { lambda } => ("lambda", lambda),
        };
        if !(strength.is_finite() && strength > 0.0) {
            return Err(Error::option(name, strength, "a number above 0"));
        }
        match *self {
            Self::Dpo {
                label_smoothing, ..
            } if !(0.0..0.5).contains(&label_smoothing) => Err(Error::option(
                "label_smoothing",
                label_smoothing,
                "0 or more and below 0.5",
            )),
            _ => Ok(()),
        }
    }

    /// Whether [`AnswerLikelihood::reference_nll`] is used.
    #[must_use]
    pub fn has_reference(&self) -> bool {
        matches!(self, Self::Dpo { .. })
    }

    /// The loss of one pair.
    ///
    /// It is not NaN as long as the likelihoods are numbers. Where an answer of ORPO is certain, its
    /// tokens count as having a mean negative log-likelihood of 1e-7.
    #[must_use]
    pub fn pair(&self, chosen: &AnswerLikelihood, rejected: &AnswerLikelihood) -> PairLoss {
        match *self {
            Self::Dpo {
                beta,
                label_smoothing,
            } => dpo(beta, label_smoothing, chosen, rejected),
            Self::Orpo { lambda } => orpo(lambda, chosen, rejected),
        }
    }
}

fn dpo(
    beta: f64,
    label_smoothing: f64,
    chosen: &AnswerLikelihood,
    rejected: &AnswerLikelihood,
) -> PairLoss {
    let reward = |answer: &AnswerLikelihood| beta * (answer.reference_nll - answer.nll);
    let (chosen_reward, rejected_reward) = (reward(chosen), reward(rejected));
    let margin = chosen_reward - rejected_reward;
    let mut loss = (1.0 - label_smoothing) * softplus(-margin);
    // No share of a loss that may be infinite is NaN.
    if label_smoothing > 0.0 {
        loss += label_smoothing * softplus(margin);
    }
    let slope = (1.0 - label_smoothing) * sigmoid(-margin) - label_smoothing * sigmoid(margin);
    PairLoss {
        loss,
        chosen_weight: beta * slope,
        rejected_weight: -beta * slope,
        chosen_reward,
        rejected_reward,
    }
}

fn orpo(lambda: f64, chosen: &AnswerLikelihood, rejected: &AnswerLikelihood) -> PairLoss {
    let (c, r) = (MeanLikelihood::of(chosen), MeanLikelihood::of(rejected));
    let ratio = c.log_odds() - r.log_odds();
    let slope = lambda * sigmoid(-ratio);
    PairLoss {
        loss: c.nll + lambda * softplus(-ratio),
        chosen_weight: (1.0 + slope * c.odds_slope()) / c.tokens,
        rejected_weight: -slope * r.odds_slope() / r.tokens,
        chosen_reward: -lambda * c.nll,
        rejected_reward: -lambda * r.nll,
    }
}

/// How likely the tokens of an answer are on average.
struct MeanLikelihood {
    nll: f64,
    tokens: f64,
}

impl MeanLikelihood {
    fn of(answer: &AnswerLikelihood) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "counts of tokens fit f64")]
        let tokens = answer.tokens.max(1) as f64;
        let nll = answer.nll / tokens;
        Self { nll, tokens }
    }

    /// log p / (1 - p), with p = exp(-nll).
    fn log_odds(&self) -> f64 {
        let nll = self.nll.max(LEAST_MEAN);
        // 1 - p, with the digits that a subtraction loses where p is near 1.
        let rest = -(-nll).exp_m1();
        -nll - rest.ln()
    }

    /// How much the logarithm of the odds falls with the mean negative log-likelihood: 1 / (1 - p).
    fn odds_slope(&self) -> f64 {
        -1.0 / (-self.nll.max(LEAST_MEAN)).exp_m1()
    }
}

/// log (1 + exp(x)), which is -log σ(-x).
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    if x < 0.0 {
        // A small result keeps its digits.
        x.exp() / (1.0 + x.exp())
    } else {
        1.0 / (1.0 + (-x).exp())
    }
}

impl Serialize for PreferenceLoss {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        Self::serialize(self, to)
    }
}

impl<'de> Deserialize<'de> for PreferenceLoss {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        Self::deserialize(named::object(from)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
