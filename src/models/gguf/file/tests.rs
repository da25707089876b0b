use super::super::testing::{
    Changed, Encoded, Entry, Writer, bool, encoded, f32, i32, list, string, u32,
};
use super::*;

/// A file with every type of value and three tensors.
fn small() -> Writer {
    let mut writer = Writer::new("llama")
        .with("a.u8", encoded(0, [200]))
        .with("a.i8", encoded(1, [0xff]))
        .with("a.u16", encoded(2, 60_000u16.to_le_bytes()))
        .with("a.i16", encoded(3, (-3i16).to_le_bytes()))
        .with("a.u32", u32(4_000_000_000))
        .with("a.i32", i32(-7))
        .with("a.f32", f32(1e-5))
        .with("a.bool", bool(true))
        .with("a.string", string("gr\u{f6}\u{df}e"))
        .with("a.list", list(8, ["x", "", "yz"].map(string)))
        .with("a.nested", list(9, [list(5, [1, 2].map(i32)), list(5, [])]))
        .with("a.u64", encoded(10, u64::MAX.to_le_bytes()))
        .with("a.i64", encoded(11, i64::MIN.to_le_bytes()))
        .with("a.f64", encoded(12, 0.1f64.to_le_bytes()));
    writer.add("first", &[2, 32], 8, &[1; 68]);
    writer.add("second", &[3], 0, &[2; 12]);
    writer.add("third", &[1, 2, 1, 3], 1, &[3; 12]);
    writer
}

fn open(bytes: &[u8]) -> Result<GgufFile> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    // Still mapped when its name is gone.
    GgufFile::open(file.path())
}

/// The error of a file, which names it.
fn message(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let message = GgufFile::open(file.path()).unwrap_err().to_string();
    let name = file.path().display().to_string();
    message.strip_prefix(&name).unwrap().to_owned()
}

#[test]
fn every_type_of_value_is_read() {
    for version in [2, 3] {
        let mut writer = small();
        writer.version = version;
        let file = open(&writer.bytes()).unwrap();
        assert_eq!(file.unsigned("a.u8").unwrap(), Some(200));
        assert_eq!(file.unsigned("a.u16").unwrap(), Some(60_000));
        assert_eq!(file.unsigned("a.u32").unwrap(), Some(4_000_000_000));
        assert_eq!(file.unsigned("a.u64").unwrap(), Some(u64::MAX));
        for (key, number) in [
            ("a.i8", -1),
            ("a.i16", -3),
            ("a.i32", -7),
            ("a.i64", i64::MIN),
        ] {
            assert!(matches!(file.value(key), Some(Value::Signed(found)) if found == number));
            assert!(file.unsigned(key).is_err(), "{key}");
        }
        // As it was written before it was rounded.
        assert_eq!(file.float("a.f32").unwrap(), Some(1e-5));
        assert_eq!(file.float("a.f64").unwrap(), Some(0.1));
        assert_eq!(file.bool("a.bool").unwrap(), Some(true));
        assert_eq!(file.string("a.string").unwrap(), Some("gr\u{f6}\u{df}e"));
        let strings = file.strings("a.list").unwrap().unwrap();
        assert_eq!(strings, ["x", "", "yz"]);
        let Some(Value::Array(nested)) = file.value("a.nested") else {
            panic!("not a list");
        };
        assert_eq!(nested.count, 2);
        assert_eq!(file.string("absent").unwrap(), None);
        let error = file.string("a.list").unwrap_err().to_string();
        let expected = "`a.list` is a list of 3 values of type String; expected a string";
        assert!(error.ends_with(expected), "{error}");
    }
}

#[test]
fn tensors_are_where_the_table_says() {
    let file = open(&small().bytes()).unwrap();
    assert!(file.tensor_names().eq(["first", "second", "third"]));
    for (name, shape, ggml_type, bytes) in [
        ("first", &[2, 32][..], "Q8_0", &[1u8; 68][..]),
        ("second", &[3], "F32", &[2; 12]),
        ("third", &[1, 2, 1, 3], "F16", &[3; 12]),
    ] {
        let entry = file.tensor(name).unwrap();
        assert_eq!(entry.shape, shape, "{name}");
        assert_eq!(entry.ggml_type.to_string(), ggml_type);
        assert_eq!(file.tensor_bytes(entry), bytes);
    }
    assert!(file.tensor("fourth").is_none());
}

#[test]
fn the_alignment_is_that_of_the_file() {
    let mut writer = Writer::new("llama").with("general.alignment", u32(8));
    writer.add("first", &[2], 0, &[1; 8]);
    writer.add("second", &[2], 0, &[2; 8]);
    writer.tensors[1].offset = 8;
    writer.data = [[1; 8], [2; 8]].concat();
    let mut bytes = writer.header();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend(&writer.data);
    let file = open(&bytes).unwrap();
    assert_eq!(file.tensor_bytes(file.tensor("second").unwrap()), [2; 8]);
    for bad in [0, 24] {
        let writer = writer.clone().with("general.alignment", u32(bad));
        let found = message(&writer.bytes());
        assert!(found.contains(&format!(
            "`general.alignment` is {bad}; expected a power of two"
        )));
    }
    let writer = writer.with("general.alignment", string("8"));
    assert!(message(&writer.bytes()).contains("`general.alignment` is \"8\""));
}

#[test]
fn a_file_that_ends_early_is_an_error_wherever_it_ends() {
    let writer = small();
    let (header, whole) = (writer.header().len(), writer.bytes());
    for length in 0..whole.len() {
        let found = message(&whole[..length]);
        let expected = if length == 0 { "empty" } else { "truncated" };
        assert!(found.contains(expected), "{length} of {header}: {found}");
    }
}

#[test]
fn no_changed_byte_of_the_header_makes_it_panic() {
    let writer = small();
    let header = writer.header();
    let file = writer.write();
    let (mut refused, mut read) = (0, 0);
    for (at, byte) in header.iter().copied().enumerate() {
        for change in [0xff, 0x80, 0x01] {
            let _changed = Changed::new(file.as_file(), at, byte, change);
            match GgufFile::open(file.path()) {
                Ok(opened) => {
                    // Every value that was accepted can be read.
                    assert!(opened.values.keys().all(|key| opened.value(key).is_some()));
                    assert!(
                        opened
                            .tensors
                            .values()
                            .all(|t| !opened.tensor_bytes(t).is_empty())
                    );
                    read += 1;
                }
                Err(error) => {
                    let name = file.path().display().to_string();
                    assert!(error.to_string().starts_with(&name), "{at}: {error}");
                    refused += 1;
                }
            }
        }
    }
    assert!(
        refused > header.len() / 2 && read > header.len() / 2,
        "{refused} {read}"
    );
}

#[test]
fn counts_and_lengths_that_lie_are_refused() {
    let base = small();
    let change = |at: usize, number: u64| {
        let mut bytes = base.bytes();
        bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        message(&bytes)
    };
    for number in [u64::MAX, 1 << 40] {
        assert!(change(8, number).contains("tensors; expected at most"));
        assert!(change(16, number).contains("keys; expected at most"));
        // The length of the first key.
        assert!(change(24, number).contains("truncated: a key at byte 32 takes"));
    }
    // More than there are.
    assert!(change(8, 60_000).contains("name of a tensor"));
    let with = |value: Encoded| message(&Writer::new("llama").with("k", value).bytes());
    let long =
        |id: u32, count: u64| encoded(9, [&id.to_le_bytes()[..], &count.to_le_bytes()].concat());
    for id in 0..=12 {
        for count in [u64::MAX, u64::MAX / 8 + 2, 1 << 40] {
            let found = with(long(id, count));
            assert!(found.contains("truncated: k at byte"), "{id}: {found}");
        }
    }
    assert!(with(encoded(13, [])).contains("`k` has the value type 13; expected one from 0 to 12"));
    assert!(with(long(99, 0)).contains("value type 99"));
    assert!(with(encoded(7, [2])).contains("`k` holds 2; expected 0 or 1"));
    assert!(with(list(7, [encoded(7, [2])])).contains("`k` holds 2"));
    let broken = encoded(8, [&1u64.to_le_bytes()[..], &[0xff]].concat());
    assert!(with(broken).contains("not UTF-8"));
    let deep = (0..1000).fold(list(5, []), |inner, _| list(9, [inner]));
    assert!(with(deep).contains("`k` nests deeper than the 4 lists"));
}

#[test]
fn what_is_there_twice_or_overlaps_is_refused() {
    let mut twice = small();
    twice.keys.push(("a.u8".to_owned(), u32(1)));
    assert!(message(&twice.bytes()).contains("the key `a.u8` is there twice"));
    let long = small().with(&"k".repeat(1 << 16), u32(1));
    assert!(message(&long.bytes()).contains("a key has 65536 bytes; expected at most 65535"));
    let mut twice = small();
    twice.tensors[2].name = "first".to_owned();
    assert!(message(&twice.bytes()).contains("tensor `first` is there twice"));
    let tensor = |change: fn(&mut Entry)| {
        let mut writer = small();
        change(&mut writer.tensors[1]);
        message(&writer.bytes())
    };
    let found = tensor(|entry| entry.offset = 64);
    assert!(found.contains("`first` and `second` overlap"), "{found}");
    let found = tensor(|entry| entry.offset = 3 << 40);
    assert!(
        found.contains("truncated: tensor `second` ends at byte"),
        "{found}"
    );
    let found = tensor(|entry| entry.offset = u64::MAX - 31);
    assert!(found.contains("lies beyond any file"), "{found}");
    let found = tensor(|entry| entry.offset += 4);
    assert!(
        found.contains("a multiple of the alignment, which is 32"),
        "{found}"
    );
    let found = tensor(|entry| entry.name = "n".repeat(300));
    assert!(
        found.contains("has 300 bytes; expected 1 to 256"),
        "{found}"
    );
    let found = tensor(|entry| entry.dims = vec![]);
    assert!(found.contains("has 0 dimensions"), "{found}");
    let found = tensor(|entry| entry.dims = vec![1; 5]);
    assert!(
        found.contains("has 5 dimensions; expected 1 to 4"),
        "{found}"
    );
    for dims in [
        vec![0],
        vec![3, 0],
        vec![1 << 63, 2],
        vec![1 << 33, 1 << 33],
    ] {
        let mut writer = small();
        writer.tensors[1].dims = dims;
        let found = message(&writer.bytes());
        assert!(found.contains("`second` has the sizes ["), "{found}");
    }
    let found = tensor(|entry| entry.dims = vec![1 << 62]);
    assert!(found.contains("as many as memory could hold"), "{found}");
    let found = tensor(|entry| entry.type_id = 8);
    assert!(
        found.contains("rows of 3 numbers; expected a multiple of the 32"),
        "{found}"
    );
}

#[test]
fn types_that_are_not_known_do_not_keep_a_file_from_opening() {
    let mut writer = small();
    writer.tensors[1].type_id = 77;
    let file = open(&writer.bytes()).unwrap();
    let entry = file.tensor("second").unwrap();
    assert_eq!(entry.ggml_type.to_string(), "number 77");
    for (id, name) in [(23, "IQ4_XS"), (39, "MXFP4"), (12, "Q4_K")] {
        assert_eq!(GgmlType::from_id(id).to_string(), name);
    }
}

#[test]
fn other_files_are_named() {
    let with_version = |version: u32| {
        let mut writer = small();
        writer.version = version;
        message(&writer.bytes())
    };
    for (found, expected) in [
        (message(b""), "empty"),
        (
            message(b"\x08\0\0\0\0\0\0\0{}"),
            "not a GGUF file: it begins with \"\\x08",
        ),
        (
            message(b"version https://git-lfs.github.com/spec/v1\n"),
            "Git LFS",
        ),
        (
            with_version(1),
            "GGUF version `1` is not supported; supported: 2, 3",
        ),
        (with_version(4), "GGUF version `4`"),
        (
            with_version(3 << 24),
            "byte order `big endian` is not supported",
        ),
    ] {
        assert!(found.contains(expected), "{found}");
    }
}
