//! Loading a file of 1 GB beside reading it, and the memory that it takes at its peak.
//!
//! `cargo bench --bench loading`. The file is written first and so lies in the memory of the operating
//! system: what is measured is the work of the program, not of the disk. Reading is `std::fs::read`,
//! which like loading fills memory that is new. Both run in turn, and medians are compared. The peak of
//! a process never falls, so it is measured in a process for each case.

use candle_core::{DType, Device, Tensor};
use metal_candle::backend::{DTypePolicy, DeviceKind, memory};
use metal_candle::models::ModelConfig;
use metal_candle::{Model, ModelLoader};
use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const CASE: &str = "METAL_CANDLE_LOADING_CASE";
const ROUNDS: usize = 7;

/// A Llama of 250 million parameters or twice as many.
fn write_model(directory: &Path, dtype: DType) {
    let layers = 12 * 4 / dtype.size_in_bytes() + 1;
    let config = serde_json::json!({
        "model_type": "llama", "vocab_size": 32_000, "hidden_size": 1024,
        "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": layers,
        "tie_word_embeddings": true
    });
    let path = directory.join("config.json");
    std::fs::write(&path, config.to_string()).unwrap();
    let config = ModelConfig::from_file(&path).unwrap();
    let tensors = config.tensors().into_iter().map(|spec| {
        let tensor = Tensor::full(0.5f32, spec.shape, &Device::Cpu).unwrap();
        (spec.name, tensor.to_dtype(dtype).unwrap())
    });
    let weights = directory.join("model.safetensors");
    candle_core::safetensors::save(&tensors.collect(), weights).unwrap();
}

fn load(directory: &Path, dtype: DTypePolicy) -> Model {
    let loader = ModelLoader::new().with_device(DeviceKind::Cpu);
    loader.with_dtype(dtype).load(directory).unwrap()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn policy(name: &str) -> DTypePolicy {
    DTypePolicy::from_name(name).unwrap()
}

#[allow(clippy::cast_precision_loss, reason = "shown with two digits")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn measure(stored: DType, loaded: &str) {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), stored);
    let weights = folder.path().join("model.safetensors");
    let (mut reading, mut loading) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        drop(black_box(std::fs::read(&weights).unwrap()));
        reading.push(start.elapsed());
        let start = Instant::now();
        drop(black_box(load(folder.path(), policy(loaded))));
        loading.push(start.elapsed());
    }
    let (reading, loading) = (median(reading), median(loading));
    println!(
        "{} to {loaded}: {:.0} MB, read in {reading:.0?}, loaded in {loading:.0?}: {:.2} times",
        stored.as_str(),
        megabytes(weights.metadata().unwrap().len()),
        loading.as_secs_f64() / reading.as_secs_f64()
    );
    let status = Command::new(std::env::current_exe().unwrap())
        .env(CASE, loaded)
        .arg(folder.path())
        .status()
        .unwrap();
    assert!(status.success());
}

fn measure_peak(directory: &Path, loaded: &str) {
    let before = memory::usage().peak;
    let model = load(directory, policy(loaded));
    let grown = memory::usage().peak - before;
    let width = model.dtype().size_in_bytes();
    let sizes = model.config().tensors().into_iter();
    let sizes = sizes.map(|spec| (spec.shape.iter().product::<usize>() * width) as u64);
    let weights = (model.parameter_count() * width) as u64;
    println!(
        "    {:.0} MB of weights, the largest {:.0} MB, {:.0} MB at the peak",
        megabytes(weights),
        megabytes(sizes.max().unwrap()),
        megabytes(grown)
    );
}

fn main() {
    if let Ok(loaded) = std::env::var(CASE) {
        let directory = std::env::args().nth(1).unwrap();
        measure_peak(Path::new(&directory), &loaded);
        return;
    }
    measure(DType::F32, "f32");
    measure(DType::BF16, "bf16");
    measure(DType::BF16, "f32");
}
