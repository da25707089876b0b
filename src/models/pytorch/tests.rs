use super::*;
use candle_core::{DType, Device};
use std::io::{Cursor, Write};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

const DIRECTORY: &str = "tests/fixtures/models/qwen2_tied_pickle";

fn path() -> &'static Path {
    Path::new("weights.bin")
}

fn original() -> Vec<u8> {
    std::fs::read(Path::new(DIRECTORY).join(SINGLE_FILE)).unwrap()
}

fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(vec![]));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, contents) in files {
        writer.start_file(*name, options).unwrap();
        writer.write_all(contents).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// The pickle of the original file.
fn pickle_of(bytes: &[u8]) -> Vec<u8> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).unwrap();
    let mut file = archive.by_name("pytorch_model/data.pkl").unwrap();
    let mut pickle = vec![];
    std::io::Read::read_to_end(&mut file, &mut pickle).unwrap();
    pickle
}

fn message(bytes: &[u8]) -> String {
    let error = entries(bytes, path()).unwrap_err();
    let message = error.to_string();
    assert!(message.starts_with("weights.bin: "), "{message}");
    message
}

/// A pickle of one tensor `w` of 2 x 3 numbers in the storage `0`, with one argument replaced.
fn pickle(storage: &str, offset: &[u8], shape: &[u8], strides: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x80\x02}(X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    bytes.extend(b"X\x07\0\0\0storage");
    bytes.extend(format!("ctorch\n{storage}Storage\n").bytes());
    bytes.extend(b"X\x01\0\0\x000X\x03\0\0\0cpuK\x06tQ");
    for argument in [offset, shape, strides] {
        bytes.extend(argument);
    }
    bytes.extend(b"\x89ccollections\nOrderedDict\n)RtRu.");
    bytes
}

fn with_pickle(pickle: &[u8]) -> Vec<u8> {
    zip(&[("m/data.pkl", pickle), ("m/data/0", &[0; 24])])
}

#[test]
fn numbers_are_those_of_the_same_model_in_safetensors() {
    let pickled = open(Path::new(DIRECTORY)).unwrap();
    let safe =
        crate::models::SafetensorsCheckpoint::open(Path::new("tests/fixtures/models/qwen2_tied"));
    let safe = safe.unwrap();
    assert_eq!(
        pickled.names().count(),
        safe.names().count() + 1,
        "the head"
    );
    for name in safe.names() {
        let numbers = |tensor: Result<candle_core::Tensor>| {
            let tensor = tensor.unwrap();
            (
                tensor.dims().to_vec(),
                tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            )
        };
        let found = numbers(pickled.read(name, None, &Device::Cpu));
        assert_eq!(
            found,
            numbers(safe.load(name, None, &Device::Cpu)),
            "{name}"
        );
    }
}

#[test]
fn dtypes_and_offsets_are_read() {
    let tuple = |a: u8, b: u8| [b'K', a, b'K', b, 0x86];
    let bytes = with_pickle(&pickle("Half", b"K\x02", &tuple(2, 3), &tuple(3, 1)));
    let found = entries(&bytes, path()).unwrap();
    let [(name, entry)] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(
        (name.as_str(), entry.dtype, entry.bytes.len()),
        ("w", Some(DType::F16), 12)
    );
    let float = |offset: &[u8], strides: &[u8]| {
        message(&with_pickle(&pickle(
            "Float",
            offset,
            &tuple(2, 3),
            strides,
        )))
    };
    assert!(float(b"K\x01", &tuple(3, 1)).contains("`w` ends at byte 28 of the storage `0`"));
    assert!(float(b"K\0", &tuple(1, 2)).contains("strides [1, 2]"));
    assert!(float(b"K\0", b"K\x01").contains("without sizes"));
    assert!(float(b"J\x7f\x7f\x7f\x7f", &tuple(3, 1)).contains("ends at byte"));
    assert!(float(b"N", &tuple(3, 1)).contains("a call of"));
}

#[test]
fn what_is_no_tensor_is_refused_by_name() {
    for (global, name) in [
        (&b"cposix\nsystem\n"[..], "posix.system"),
        (b"cbuiltins\neval\n", "builtins.eval"),
        (b"\x8c\x02os\x8c\x06system\x93", "os.system"),
        (
            b"ctorch\nComplexFloatStorage\n",
            "torch.ComplexFloatStorage",
        ),
    ] {
        let mut pickle = b"\x80\x02".to_vec();
        pickle.extend(global);
        pickle.extend(b"(X\x02\0\0\0lstR.");
        let error = entries(&with_pickle(&pickle), path()).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        let message = error.to_string();
        assert!(
            message.contains(name) && message.contains("_rebuild_tensor_v2"),
            "{message}"
        );
    }
    // Opcodes that build other objects.
    for opcode in *b"io\x81\x92\x82PIVSULFF" {
        let pickle = [&b"\x80\x02}"[..], &[opcode], b"."].concat();
        assert!(
            message(&with_pickle(&pickle)).contains("the opcode 0x"),
            "{opcode}"
        );
    }
}

#[test]
fn every_prefix_of_a_pickle_is_truncated() {
    let pickle = pickle_of(&original());
    let mut seen = 0;
    for len in 0..pickle.len() {
        let error = pickle::tensors(&pickle[..len], path()).unwrap_err();
        assert!(
            matches!(error, Error::InvalidFormat { .. }),
            "{len}: {error}"
        );
        seen += 1;
    }
    assert!(seen > 4000);
    assert_eq!(pickle::tensors(&pickle, path()).unwrap().len(), 27);
}

#[test]
fn changed_bytes_are_errors_or_other_names() {
    let whole = original();
    let pickle = pickle_of(&whole);
    for place in 0..pickle.len() {
        for change in [1, 0x20, 0x80, 0xff] {
            let mut changed = pickle.clone();
            changed[place] ^= change;
            let _ = pickle::tensors(&changed, path());
        }
    }
    // The list of files, and the headers before the files.
    let mut refused = 0;
    let step = whole.len() / 5000;
    for place in (0..whole.len())
        .step_by(step)
        .chain(whole.len() - 2200..whole.len())
    {
        let mut changed = whole.clone();
        changed[place] ^= 0x41;
        refused += usize::from(entries(&changed, path()).is_err());
    }
    assert!(refused > 500, "{refused}");
}

#[test]
fn truncated_archives_are_invalid_formats() {
    let whole = original();
    let ends = (0..whole.len())
        .step_by(97)
        .chain(whole.len() - 2200..whole.len());
    for len in ends {
        let error = entries(&whole[..len], path()).unwrap_err();
        assert!(
            matches!(error, Error::InvalidFormat { .. }),
            "{len}: {error}"
        );
    }
}

#[test]
fn archives_of_other_kinds_are_named() {
    let good = pickle_of(&original());
    assert!(message(b"hello").contains("no ZIP archive"));
    let legacy = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.";
    assert!(message(legacy).contains("before PyTorch 1.6"));
    assert!(message(&zip(&[("m/other", b"x")])).contains("no data.pkl"));
    let two = zip(&[("a/data.pkl", &good), ("b/data.pkl", &good)]);
    assert!(message(&two).contains("or several"));
    assert!(message(&zip(&[("m/data.pkl", &good)])).contains("storage `0`, which is not in"));
    let big = zip(&[("m/data.pkl", &good), ("m/byteorder", b"big")]);
    assert!(message(&big).contains("byte order"));
    // A name twice: written under another name of the same length, and renamed.
    let mut twice = zip(&[("m/data.pkl", &good), ("m/data.pkx", &good)]);
    while let Some(place) = twice.windows(8).position(|bytes| bytes == b"data.pkx") {
        twice[place + 7] = b'l';
    }
    assert!(message(&twice).contains("twice"), "{}", message(&twice));
}

/// Memory and time are bounded by the length of the pickle.
#[test]
fn repetition_does_not_multiply() {
    // A long tuple, called a hundred thousand times.
    let mut pickle = b"\x80\x02ccollections\nOrderedDict\nq\0(".to_vec();
    pickle.extend(std::iter::repeat_n(b'N', 100_000));
    pickle.extend(b"tq\x01");
    for _ in 0..100_000 {
        pickle.extend(b"h\0)R0");
    }
    pickle.extend(b"h\0h\x01R.");
    assert!(message(&with_pickle(&pickle)).contains("a call of"));
    // A dictionary in itself.
    let cycle = b"\x80\x02}q\0X\x01\0\0\0ah\0s.";
    assert!(entries(&with_pickle(cycle), path()).unwrap().is_empty());
}
