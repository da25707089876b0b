//! Loading a file of 1 GB beside reading it, and the memory that it takes at its peak.
//!
//! `cargo bench --bench loading`. The file is written first and so lies in the memory of the operating
//! system: what is measured is the work of the program, not of the disk. Reading is `std::fs::read`,
//! which like loading fills memory that is new. Both run in turn, each in a process of its own, since a
//! process keeps memory that it has had, and its peak; medians are compared. A process begins with the
//! peak of the one that starts it, so that one does nothing large.

use candle_core::{DType, Device, Tensor};
use metal_candle::backend::{DTypePolicy, DeviceKind, memory};
use metal_candle::models::ModelConfig;
use metal_candle::{Model, ModelLoader};
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

const PART: &str = "METAL_CANDLE_LOADING_PART";
const WEIGHTS: &str = "model.safetensors";
const ROUNDS: usize = 7;

/// A Llama of 250 million parameters or twice as many.
fn write_model(directory: &Path, dtype: &str) {
    let dtype = if dtype == "f32" {
        DType::F32
    } else {
        DType::BF16
    };
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
    let weights = directory.join(WEIGHTS);
    candle_core::safetensors::save(&tensors.collect(), weights).unwrap();
}

fn load(directory: &Path, dtype: &str) -> Model {
    let loader = ModelLoader::new().with_device(DeviceKind::Cpu);
    let dtype = DTypePolicy::from_name(dtype).unwrap();
    loader.with_dtype(dtype).load(directory).unwrap()
}

/// Runs a part in a process of its own, and gives what it prints.
fn part(name: &str, directory: &Path, argument: &str) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .env(PART, name)
        .args([directory.as_os_str(), argument.as_ref()])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{name} failed");
    String::from_utf8(output.stdout).unwrap()
}

fn run_part(name: &str, directory: &Path, argument: &str) {
    let start = Instant::now();
    match name {
        "write" => write_model(directory, argument),
        "read" => {
            let bytes = black_box(std::fs::read(directory.join(WEIGHTS)).unwrap());
            println!("{}", start.elapsed().as_secs_f64());
            drop(bytes);
        }
        "load" => {
            let model = black_box(load(directory, argument));
            println!("{}", start.elapsed().as_secs_f64());
            drop(model);
        }
        "peak" => print_peak(directory, argument),
        _ => panic!("no part {name}"),
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

#[allow(clippy::cast_precision_loss, reason = "shown with two digits")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn print_peak(directory: &Path, loaded: &str) {
    let before = memory::usage().peak;
    let model = load(directory, loaded);
    let grown = memory::usage().peak - before;
    let width = model.dtype().size_in_bytes();
    let sizes = model.config().tensors().into_iter();
    let sizes = sizes.map(|spec| (spec.shape.iter().product::<usize>() * width) as u64);
    let weights = (model.parameter_count() * width) as u64;
    assert!(grown > weights / 2, "the peak is that of another process");
    println!(
        "    {:.0} MB of weights, the largest {:.0} MB, {:.0} MB at the peak",
        megabytes(weights),
        megabytes(sizes.max().unwrap()),
        megabytes(grown)
    );
}

fn measure(stored: &str, loaded: &str) {
    let folder = tempfile::tempdir().unwrap();
    part("write", folder.path(), stored);
    let (mut reading, mut loading) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        for (name, times) in [("read", &mut reading), ("load", &mut loading)] {
            let printed = part(name, folder.path(), loaded);
            times.push(printed.trim().parse::<f64>().unwrap());
        }
    }
    let (reading, loading) = (median(reading), median(loading));
    let size = folder.path().join(WEIGHTS).metadata().unwrap().len();
    println!(
        "{stored} to {loaded}: {:.0} MB, read in {:.0} ms, loaded in {:.0} ms: {:.2} times",
        megabytes(size),
        reading * 1e3,
        loading * 1e3,
        loading / reading
    );
    print!("{}", part("peak", folder.path(), loaded));
}

fn main() {
    if let Ok(name) = std::env::var(PART) {
        let arguments: Vec<_> = std::env::args().skip(1).collect();
        run_part(&name, Path::new(&arguments[0]), &arguments[1]);
        return;
    }
    measure("f32", "f32");
    measure("bf16", "bf16");
    measure("bf16", "f32");
}
