//! Lists of shards that lie.

use super::{CONFIG, INDEX, SHARD, assert_refused, deep, pipe, replace};
use crate::common::{copy_of, fixture, read_json};
use serde_json::json;
use std::path::Path;

/// A whole model in one file.
const SINGLE: &str = "tests/fixtures/models/qwen2_tied/model.safetensors";

#[test]
fn indices_that_lie() {
    let cases = [
        (json!({"a": INDEX}), "InvalidFormat", [INDEX, "safetensors"]),
        (
            json!({"a": "folder"}),
            "InvalidFormat",
            ["folder", "a directory"],
        ),
        (
            json!({"a": ".."}),
            "InvalidConfig",
            [INDEX, "`weight_map.a`"],
        ),
        (
            json!({"a": "../x"}),
            "InvalidConfig",
            [INDEX, "`weight_map.a`"],
        ),
        (json!({"a": "/etc/x"}), "InvalidConfig", [INDEX, "/etc/x"]),
        (
            json!({"a": "folder/x"}),
            "InvalidConfig",
            [INDEX, "`weight_map.a`"],
        ),
        (json!({"a": 1}), "InvalidConfig", [INDEX, "`weight_map.a`"]),
        (json!({"a": ""}), "InvalidConfig", [INDEX, "`weight_map.a`"]),
        (json!([]), "InvalidConfig", [INDEX, "`weight_map`"]),
        (json!({}), "InvalidConfig", [INDEX, "`weight_map`"]),
        (json!({"a": "none"}), "FileNotFound", ["none", "shard"]),
        (
            json!({"a": "empty"}),
            "InvalidFormat",
            ["empty", "is empty"],
        ),
        (
            json!({"a": CONFIG}),
            "InvalidFormat",
            [CONFIG, "safetensors"],
        ),
        (
            json!({"absent": SHARD}),
            "MissingTensor",
            [SHARD, "`absent`"],
        ),
        #[cfg(unix)]
        (json!({"a": "link"}), "InvalidFormat", ["link", "links to"]),
        #[cfg(unix)]
        (
            json!({"a": "pipe"}),
            "InvalidFormat",
            ["pipe", "not a regular file"],
        ),
    ];
    let model = copy_of(fixture("models/qwen2_tied_sharded"));
    let directory = model.path();
    std::fs::create_dir(directory.join("folder")).unwrap();
    std::fs::write(directory.join("empty"), b"").unwrap();
    #[cfg(unix)]
    {
        let target = Path::new(SINGLE).canonicalize().unwrap();
        std::os::unix::fs::symlink(target, directory.join("link")).unwrap();
        pipe(&directory.join("pipe"));
    }
    for (index, variant, words) in cases {
        replace(directory, INDEX, json!({"weight_map": index}).to_string());
        assert_refused(directory, variant, &words);
    }
    replace(directory, INDEX, "[]");
    assert_refused(directory, "InvalidFormat", &[INDEX, "expected an object"]);
    replace(directory, INDEX, deep("{\"weight_map\":"));
    assert_refused(directory, "InvalidFormat", &[INDEX, "recursion limit"]);
}

#[test]
fn indices_of_much_and_of_tensors_that_come_twice() {
    let model = copy_of(fixture("models/qwen2_tied_sharded"));
    let directory = model.path();
    // Many names of one shard, and many shards.
    let names = |shard: &dyn Fn(usize) -> String| {
        let names = (0..100_000).map(|i| (format!("t{i:05}"), json!(shard(i))));
        json!({"weight_map": names.collect::<serde_json::Map<_, _>>()}).to_string()
    };
    replace(directory, INDEX, names(&|_| SHARD.to_owned()));
    assert_refused(directory, "MissingTensor", &[SHARD, "`t00000`"]);
    replace(directory, INDEX, names(&|i| format!("{i:05}.safetensors")));
    assert_refused(directory, "FileNotFound", &["00000.safetensors"]);
    // A tensor in two shards.
    std::fs::copy(SINGLE, directory.join("again")).unwrap();
    let norm = "model.norm.weight";
    let first =
        read_json(&fixture("models/qwen2_tied_sharded").join(INDEX))["weight_map"][norm].clone();
    let index = json!({"weight_map": {norm: "again", "b": first}});
    replace(directory, INDEX, index.to_string());
    assert_refused(directory, "InvalidFormat", &["again", "is also in"]);
}
