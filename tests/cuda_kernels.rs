//! The kernels for NVIDIA GPUs are committed compiled: what they were compiled from is what lies beside them.

#[test]
fn the_compiled_kernels_are_those_of_the_sources() {
    let folder = std::path::Path::new("src/backend/kernels/cuda");
    let shared = std::fs::read(folder.join("numbers.cuh")).unwrap();
    let files = std::fs::read_dir(folder).unwrap();
    let mut sources: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "cu"));
    assert_eq!(sources.len(), 5);
    for path in sources {
        let source = [std::fs::read(&path).unwrap(), shared.clone()].concat();
        let compiled = std::fs::read_to_string(path.with_extension("ptx")).unwrap();
        let hash = source
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |state, &byte| {
                (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        let name = path.file_name().unwrap().to_string_lossy();
        assert_eq!(
            compiled.lines().next(),
            Some(format!("// FNV-1a of {name} and numbers.cuh: {hash:016x}").as_str()),
            "run {}/compile.sh",
            folder.display()
        );
    }
}

/// Where there is no driver, it is the loading that says so.
#[cfg(feature = "cuda")]
#[test]
fn a_missing_gpu_is_an_error() {
    use metal_candle::{Error, ModelLoader, backend::DeviceKind};
    let loader = ModelLoader::new().with_device(DeviceKind::Cuda);
    match loader.load("assets/tiny-coder") {
        Ok(model) => assert!(model.device().is_cuda()),
        Err(error) => assert!(
            matches!(&error, Error::DeviceUnavailable { device, .. } if device == "cuda"),
            "{error}"
        ),
    }
}

/// On a GPU: `METAL_CANDLE_TEST_DEVICE=cuda`.
#[cfg(feature = "cuda")]
mod on_a_gpu {
    use candle_core::{DType, Device, Tensor};
    use metal_candle::backend::{DTypePolicy, DeviceKind};
    use metal_candle::{GenerateOptions, Generator, Model, ModelLoader};
    use serde_json::{Value, json};
    use std::collections::HashMap;
    use std::ops::ControlFlow;
    use std::path::Path;

    const HIDDEN: usize = 256;
    const HEADS: usize = 4;
    // Wide enough for warps that share a row, and large enough for warps that have several.
    const INTERMEDIATE: usize = 2304;
    const VOCABULARY: usize = 9008;
    const LAYERS: usize = 3;

    /// Numbers between -1 and 1, the same in every run.
    #[allow(clippy::cast_precision_loss, reason = "24 bits fit f32")]
    fn numbers(count: usize) -> impl Iterator<Item = f32> {
        (1..=count as u64).map(move |index| {
            let mixed = (index + count as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (mixed >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        })
    }

    /// Writes a small model with heads of a size that the kernels take.
    fn write(folder: &Path, head_dim: usize, kind: &str, extra: &Value) {
        let inner = HEADS * head_dim;
        let mut weights = HashMap::new();
        let random = |rows: usize, columns: usize| {
            let numbers = numbers(rows * columns).map(|x| x * 0.16).collect();
            Tensor::from_vec(numbers, (rows, columns), &Device::Cpu).unwrap()
        };
        let vector = |len: usize| {
            Tensor::from_vec(
                numbers(len).map(|x| 1.0 + x * 0.2).collect(),
                len,
                &Device::Cpu,
            )
            .unwrap()
        };
        weights.insert(
            "model.embed_tokens.weight".to_owned(),
            random(VOCABULARY, HIDDEN),
        );
        weights.insert("lm_head.weight".to_owned(), random(VOCABULARY, HIDDEN));
        weights.insert("model.norm.weight".to_owned(), vector(HIDDEN));
        for layer in 0..LAYERS {
            let mut put = |name: &str, tensor: Tensor| {
                weights.insert(format!("model.layers.{layer}.{name}"), tensor);
            };
            put("input_layernorm.weight", vector(HIDDEN));
            put("post_attention_layernorm.weight", vector(HIDDEN));
            for (name, rows) in [
                ("q_proj", inner),
                ("k_proj", inner / 2),
                ("v_proj", inner / 2),
            ] {
                put(&format!("self_attn.{name}.weight"), random(rows, HIDDEN));
                if kind == "qwen2" {
                    put(&format!("self_attn.{name}.bias"), vector(rows));
                }
            }
            put("self_attn.o_proj.weight", random(HIDDEN, inner));
            if kind == "qwen3" {
                put("self_attn.q_norm.weight", vector(head_dim));
                put("self_attn.k_norm.weight", vector(head_dim));
            }
            put("mlp.gate_proj.weight", random(INTERMEDIATE, HIDDEN));
            put("mlp.up_proj.weight", random(INTERMEDIATE, HIDDEN));
            put("mlp.down_proj.weight", random(HIDDEN, INTERMEDIATE));
        }
        let weights: HashMap<_, _> = weights
            .into_iter()
            .map(|(name, weight)| (name, weight.to_dtype(DType::BF16).unwrap()))
            .collect();
        candle_core::safetensors::save(&weights, folder.join("model.safetensors")).unwrap();
        let architecture = match kind {
            "qwen2" => "Qwen2ForCausalLM",
            "qwen3" => "Qwen3ForCausalLM",
            _ => "MistralForCausalLM",
        };
        let mut config = json!({
            "architectures": [architecture], "model_type": kind, "hidden_act": "silu",
            "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS, "num_key_value_heads": HEADS / 2, "head_dim": head_dim,
            "vocab_size": VOCABULARY, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
            "rope_theta": 10_000.0, "tie_word_embeddings": false,
        });
        for (key, value) in extra.as_object().unwrap() {
            config[key] = value.clone();
        }
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    }

    fn load(folder: &Path, device: DeviceKind, dtype: &str) -> Model {
        let dtype = DTypePolicy::from_name(dtype).unwrap();
        ModelLoader::new()
            .with_device(device)
            .with_dtype(dtype)
            .load(folder)
            .unwrap()
    }

    /// The root of the mean square of what differs, relative to that of the numbers.
    fn error(of: &[f32], reference: &[f32]) -> f32 {
        let pairs = of.iter().zip(reference);
        let difference: f32 = pairs.map(|(a, b)| (a - b).powi(2)).sum();
        (difference / reference.iter().map(|x| x.powi(2)).sum::<f32>()).sqrt()
    }

    /// Greedy texts are chosen where the logits are, unless more is asked about these.
    #[test]
    fn a_choice_on_the_gpu_is_the_choice_on_the_host() {
        if std::env::var("METAL_CANDLE_TEST_DEVICE").as_deref() != Ok("cuda") {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 64, "qwen2", &json!({}));
        let model = load(folder.path(), DeviceKind::Cuda, "bf16");
        let generate = |top_logprobs, min_tokens| {
            let options = GenerateOptions {
                max_tokens: 40,
                ignore_eos: true,
                top_logprobs,
                min_tokens,
                stop_token_ids: vec![5],
                ..GenerateOptions::default()
            };
            let mut generator = Generator::new(&model);
            let prompt = [3, 1, 4, 1, 5, 9, 2, 6];
            let next = |_: &metal_candle::Chunk| ControlFlow::Continue(());
            generator
                .generate_from_ids(&prompt, &options, next)
                .unwrap()
        };
        for min_tokens in [0, 20] {
            let (there, here) = (generate(0, min_tokens), generate(1, min_tokens));
            assert!(there.tokens.len() > min_tokens && there.tokens == here.tokens);
            assert_eq!(there.finish_reason, here.finish_reason);
            for (there, here) in there.logprobs.iter().zip(&here.logprobs) {
                assert!((there - here).abs() < 1e-4, "{there} {here}");
            }
        }
    }

    /// The last token goes through the kernels, all tokens at once through one operation after the other.
    /// Both have the errors of 16 bits, which are as large here as there, and bounded.
    #[test]
    fn a_token_through_the_kernels_is_a_token_through_operations() {
        if std::env::var("METAL_CANDLE_TEST_DEVICE").as_deref() != Ok("cuda") {
            return;
        }
        let kinds = [
            ("qwen2", 64, json!({})),
            ("qwen2", 128, json!({})),
            ("qwen3", 128, json!({})),
            ("mistral", 64, json!({"sliding_window": 70})),
            ("mistral", 256, json!({"sliding_window": null})),
        ];
        for (kind, head_dim, extra) in kinds {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), head_dim, kind, &extra);
            let exact = load(folder.path(), DeviceKind::Cpu, "f32");
            for (dtype, bound) in [("bf16", 0.04_f32), ("f16", 0.006)] {
                let model = load(folder.path(), DeviceKind::Cuda, dtype);
                for context in [2, 70, 71, 255, 256, 257, 258, 512, 513, 700] {
                    let ids: Vec<u32> = (0..context).map(|i| (i * 37 + i * i) % 320).collect();
                    let at_once = Generator::new(&model).next_logits(&ids).unwrap();
                    let mut generator = Generator::new(&model);
                    generator.next_logits(&ids[..ids.len() - 1]).unwrap();
                    let stepwise = generator.next_logits(&ids).unwrap();
                    let reference = Generator::new(&exact).next_logits(&ids).unwrap();
                    let (fused, chain) =
                        (error(&stepwise, &reference), error(&at_once, &reference));
                    // The next token finds what this one left in the cache.
                    let longer = [&ids[..], &[5]].concat();
                    let next = generator.next_logits(&longer).unwrap();
                    let reference = Generator::new(&exact).next_logits(&longer).unwrap();
                    let next = error(&next, &reference);
                    let what = format!(
                        "{kind} {head_dim} {dtype} after {context}: {fused} {next} {chain}"
                    );
                    assert!(fused > 0.0 && fused <= bound.min(2.0 * chain), "{what}");
                    assert!(next > 0.0 && next <= bound, "{what}");
                }
            }
        }
    }
}
