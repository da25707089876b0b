use super::*;

const LOSSES: [PreferenceLoss; 4] = [
    PreferenceLoss::Dpo {
        beta: 0.1,
        label_smoothing: 0.0,
    },
    PreferenceLoss::Dpo {
        beta: 0.5,
        label_smoothing: 0.2,
    },
    PreferenceLoss::Orpo { lambda: 0.1 },
    PreferenceLoss::Orpo { lambda: 1.5 },
];

fn answer(nll: f64, tokens: usize, reference_nll: f64) -> AnswerLikelihood {
    AnswerLikelihood {
        nll,
        tokens,
        reference_nll,
    }
}

/// Pairs of a chosen and a rejected answer, likely and unlikely, near the reference and far off.
fn pairs() -> Vec<(AnswerLikelihood, AnswerLikelihood)> {
    let answers = [
        answer(3.0, 2, 3.5),
        answer(0.4, 5, 1.0),
        answer(12.0, 7, 4.0),
        answer(35.0, 30, 41.0),
    ];
    let both = |chosen| answers.map(|rejected| (chosen, rejected));
    answers.into_iter().flat_map(both).collect()
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-12 * b.abs().max(1.0)
}

/// Equation 7 of the paper on DPO, and equation 3 of the note on conservative DPO.
#[test]
fn dpo_is_the_formula_of_the_paper() {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    for (beta, smoothing) in [(0.1, 0.0), (0.5, 0.2)] {
        let loss = PreferenceLoss::Dpo {
            beta,
            label_smoothing: smoothing,
        };
        for (chosen, rejected) in pairs() {
            let ratio = |a: &AnswerLikelihood| ((-a.nll).exp() / (-a.reference_nll).exp()).ln();
            let (c, r) = (beta * ratio(&chosen), beta * ratio(&rejected));
            let expected =
                -(1.0 - smoothing) * sigmoid(c - r).ln() - smoothing * sigmoid(r - c).ln();
            let found = loss.pair(&chosen, &rejected);
            assert!(close(found.loss, expected), "{found:?} {expected}");
            assert!(close(found.chosen_reward, c) && close(found.rejected_reward, r));
            assert!(close(found.margin(), c - r));
            assert_eq!(found.is_accurate(), found.margin() > 0.0);
        }
    }
}

/// Equations 3 to 7 of the paper on ORPO.
#[test]
#[allow(clippy::cast_precision_loss, reason = "small counts")]
fn orpo_is_the_formula_of_the_paper() {
    for lambda in [0.1, 1.5] {
        for (chosen, rejected) in pairs() {
            let mean = |a: &AnswerLikelihood| a.nll / a.tokens as f64;
            let odds = |a: &AnswerLikelihood| (-mean(a)).exp() / (1.0 - (-mean(a)).exp());
            let ratio = (odds(&chosen) / odds(&rejected)).ln();
            let expected = mean(&chosen) - lambda * (1.0 / (1.0 + (-ratio).exp())).ln();
            let found = PreferenceLoss::Orpo { lambda }.pair(&chosen, &rejected);
            assert!(close(found.loss, expected), "{found:?} {expected}");
            assert!(close(found.chosen_reward, -lambda * mean(&chosen)));
            assert!(close(found.rejected_reward, -lambda * mean(&rejected)));
            assert_eq!(found.is_accurate(), mean(&chosen) < mean(&rejected));
        }
    }
}

#[test]
fn weights_are_the_slopes_of_the_loss() {
    const STEP: f64 = 1e-5;
    for loss in LOSSES {
        for (chosen, rejected) in pairs() {
            let moved = |c: f64, r: f64| {
                let moved = |a: AnswerLikelihood, by| answer(a.nll + by, a.tokens, a.reference_nll);
                loss.pair(&moved(chosen, c), &moved(rejected, r)).loss
            };
            let found = loss.pair(&chosen, &rejected);
            let c = (moved(STEP, 0.0) - moved(-STEP, 0.0)) / (2.0 * STEP);
            let r = (moved(0.0, STEP) - moved(0.0, -STEP)) / (2.0 * STEP);
            assert!(
                (found.chosen_weight - c).abs() < 1e-8,
                "{loss:?} {found:?} {c}"
            );
            assert!(
                (found.rejected_weight - r).abs() < 1e-8,
                "{loss:?} {found:?} {r}"
            );
        }
    }
}

#[test]
fn extremes_are_numbers() {
    let sums = [0.0, 1e-300, 1e-9, 1.0, 1e4, 1e12];
    for loss in LOSSES {
        for (c, r) in sums.into_iter().flat_map(|c| sums.map(|r| (c, r))) {
            for reference in [0.0, 50.0, 1e12] {
                let chosen = answer(c, 10, reference);
                let rejected = answer(r, 20, 2.0 * reference);
                let found = loss.pair(&chosen, &rejected);
                let PairLoss {
                    loss,
                    chosen_weight,
                    rejected_weight,
                    ..
                } = found;
                let all = [loss, chosen_weight, rejected_weight, found.margin()];
                assert!(all.into_iter().all(f64::is_finite), "{chosen:?} {found:?}");
                assert!(loss >= 0.0, "{found:?}");
            }
        }
        // A probability of 0: the loss may be infinite, but never NaN.
        let (some, never) = (answer(3.0, 2, 3.0), answer(f64::INFINITY, 2, 3.0));
        for (chosen, rejected) in [(some, never), (never, some)] {
            let found = loss.pair(&chosen, &rejected);
            assert!(found.loss >= 0.0 && !found.rejected_weight.is_nan());
            assert!(!found.chosen_weight.is_nan());
        }
    }
}

#[test]
fn far_from_right_the_slope_is_whole_and_far_beyond_it_is_nothing() {
    let pair = |chosen, rejected| {
        let (chosen, rejected) = (answer(chosen, 1, 0.0), answer(rejected, 1, 0.0));
        LOSSES[0].pair(&chosen, &rejected)
    };
    let wrong = pair(1e5, 0.0);
    assert!(close(wrong.loss, 1e4) && close(wrong.chosen_weight, 0.1));
    assert!(close(wrong.rejected_weight, -0.1));
    let right = pair(0.0, 7000.0);
    // exp(-700) is not 0, nor is what comes of it.
    assert!(right.loss > 0.0 && right.loss < 1e-300, "{right:?}");
    assert!(right.chosen_weight > 0.0 && right.chosen_weight < 1e-300);
}

#[test]
fn odds_keep_their_digits_near_certainty() {
    let x = 2e-7f64;
    let near = MeanLikelihood::of(&answer(2.0 * x, 2, 0.0));
    assert!(close(near.log_odds(), -x.exp_m1().ln()));
    assert!(close(near.odds_slope() * x, 1.0 + x / 2.0 + x * x / 12.0));
    let far = MeanLikelihood::of(&answer(80.0, 2, 0.0));
    assert!(close(far.log_odds(), -40.0) && close(far.odds_slope(), 1.0));
}

#[test]
fn names_and_json_read_back() {
    for loss in LOSSES {
        loss.validate().unwrap();
        let json = serde_json::to_value(loss).unwrap();
        assert_eq!(json["name"], loss.name());
        assert_eq!(PreferenceLoss::from_json(&json.to_string()).unwrap(), loss);
    }
    for name in ["dpo", "orpo"] {
        let loss = PreferenceLoss::from_name(name).unwrap();
        assert_eq!(loss.name(), name);
        assert_eq!(loss.has_reference(), name == "dpo");
        for json in [serde_json::json!(name), serde_json::json!({"name": name})] {
            assert_eq!(PreferenceLoss::from_json(&json.to_string()).unwrap(), loss);
        }
    }
    assert_eq!(PreferenceLoss::from_name("dpo").unwrap(), LOSSES[0]);
    assert_eq!(PreferenceLoss::from_name("orpo").unwrap(), LOSSES[2]);
    let error = PreferenceLoss::from_name("kto").unwrap_err().to_string();
    assert!(error.contains("`kto`; expected `dpo` or `orpo`"), "{error}");
}

#[test]
fn what_is_wrong_is_named() {
    for (json, reason) in [
        (r#"{"name": "dpo", "betta": 1}"#, "`betta`"),
        (r#"{"name": "orpo", "beta": 1}"#, "`beta`"),
        (r#""kto""#, "`orpo`"),
        ("[]", "[] is neither a name"),
    ] {
        let error = PreferenceLoss::from_json(json).unwrap_err().to_string();
        assert!(error.contains("option `preference_loss`"), "{error}");
        assert!(error.contains(reason), "{error}");
    }
    for (json, message) in [
        (
            r#"{"name": "dpo", "beta": 0}"#,
            "`beta` is 0; expected a number above 0",
        ),
        (
            r#"{"name": "orpo", "lambda": -1}"#,
            "`lambda` is -1; expected a number above 0",
        ),
        (
            r#"{"name": "dpo", "label_smoothing": 0.5}"#,
            "`label_smoothing` is 0.5; expected 0 or more and below 0.5",
        ),
    ] {
        let loss = PreferenceLoss::from_json(json).unwrap();
        let error = loss.validate().unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}
