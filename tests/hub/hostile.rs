//! Servers that err or lie.

use super::common::fixture;
use super::repository::{COMMIT, FakeHub, NAME, Repository};
use super::server::Server;
use super::{Reply, WEIGHTS, folder, names};
use metal_candle::{Error, Hub};
use std::path::Path;

/// The message of a fetch that fails.
fn failure(server: &FakeHub, cache: &Path) -> String {
    let error = server.client(cache).fetch(NAME).unwrap_err();
    let message = error.to_string();
    assert!(!message.contains("s3cret"), "{message}");
    message
}

/// Asserts that nothing of a file was kept, and that the next fetch, from a server that is right again,
/// gets it.
fn assert_recovers(server: &FakeHub, cache: &Path) {
    let blobs = folder(cache).join("blobs");
    assert!(!blobs.exists() || names(&blobs).iter().all(|name| name.len() == 40));
    server.repository().wrong_bytes.clear();
    server.repository().wrong_sizes.clear();
    server.repository().wrong_etags.clear();
    let directory = server.client(cache).fetch(NAME).unwrap();
    let expected = std::fs::read(fixture("models/qwen2_tied").join(WEIGHTS)).unwrap();
    assert_eq!(std::fs::read(directory.join(WEIGHTS)).unwrap(), expected);
}

#[test]
fn other_bytes_than_announced_are_not_kept() {
    for name in [WEIGHTS, "config.json"] {
        let server = FakeHub::start(Repository::of("qwen2_tied"));
        let cache = tempfile::tempdir().unwrap();
        let etag = server.repository().etag(name);
        let mut bytes = server.repository().files[name].clone();
        *bytes.last_mut().unwrap() ^= 1;
        server
            .repository()
            .wrong_bytes
            .insert(name.to_owned(), bytes);
        let message = failure(&server, cache.path());
        for part in [name, "SHA", "expected", &etag, "deleted"] {
            assert!(message.contains(part), "{message}");
        }
        server.repository().wrong_bytes.clear();
        assert_recovers(&server, cache.path());
    }
}

#[test]
fn another_size_than_announced_is_refused() {
    let size = std::fs::metadata(fixture("models/qwen2_tied").join(WEIGHTS))
        .unwrap()
        .len();
    let size = usize::try_from(size).unwrap();
    for wrong in [size - 1, size + 1, 0, usize::MAX] {
        let server = FakeHub::start(Repository::of("qwen2_tied"));
        let cache = tempfile::tempdir().unwrap();
        server
            .repository()
            .wrong_sizes
            .insert(WEIGHTS.to_owned(), wrong);
        let message = failure(&server, cache.path());
        assert!(
            message.contains(WEIGHTS) && message.contains("expected"),
            "{message}"
        );
        if wrong > 0 {
            assert!(
                message.contains(&format!("{size} bytes; expected {wrong}")),
                "{message}"
            );
        }
        assert_recovers(&server, cache.path());
    }
}

#[test]
fn a_size_that_is_not_announced_is_found_out() {
    let size = std::fs::metadata(fixture("models/qwen2_tied").join(WEIGHTS))
        .unwrap()
        .len();
    let size = usize::try_from(size).unwrap();
    for (wrong, expected) in [(size - 1, "or more; expected"), (size + 1, "no more than")] {
        let server = FakeHub::start(Repository::of("qwen2_tied"));
        let cache = tempfile::tempdir().unwrap();
        server.repository().hides_lengths = true;
        server
            .repository()
            .wrong_sizes
            .insert(WEIGHTS.to_owned(), wrong);
        let message = failure(&server, cache.path());
        assert!(
            message.contains(WEIGHTS) && message.contains(expected),
            "{message}"
        );
        assert!(message.contains(&wrong.to_string()), "{message}");
        assert_recovers(&server, cache.path());
    }
}

#[test]
fn a_part_that_does_not_belong_to_the_file_is_found_out() {
    let server = FakeHub::start(Repository::of("qwen2_tied"));
    let cache = tempfile::tempdir().unwrap();
    let blobs = folder(cache.path()).join("blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let etag = server.repository().etag(WEIGHTS);
    let partial = blobs.join(format!("{etag}.incomplete"));
    std::fs::write(&partial, [7; 1000]).unwrap();
    let message = failure(&server, cache.path());
    assert!(message.contains(&etag), "{message}");
    assert!(!partial.exists());
    assert_recovers(&server, cache.path());
    // More than the whole file can be no part of it.
    let size = server.repository().files[WEIGHTS].len();
    std::fs::remove_dir_all(folder(cache.path()).join("snapshots")).unwrap();
    std::fs::remove_file(blobs.join(&etag)).unwrap();
    std::fs::write(&partial, vec![7; size + 1]).unwrap();
    assert!(server.client(cache.path()).fetch(NAME).is_ok());
}

#[test]
fn checksums_that_are_none_do_not_become_paths() {
    for etag in ["../../../evil", "", "abc", "/etc/passwd", &"g".repeat(64)] {
        let server = FakeHub::start(Repository::of("qwen2_tied"));
        let cache = tempfile::tempdir().unwrap();
        server
            .repository()
            .wrong_etags
            .insert(WEIGHTS.to_owned(), etag.to_owned());
        let message = failure(&server, cache.path());
        assert!(
            message.contains("ETag") && message.contains(WEIGHTS),
            "{etag}: {message}"
        );
        assert_recovers(&server, cache.path());
    }
}

#[test]
fn lists_that_are_none_are_refused() {
    let text = |text: &str| text.as_bytes().to_vec();
    for (listing, expected) in [
        (text(""), "no list of files"),
        (text("[]"), "no list of files"),
        (text(r#"{"sha": 1, "siblings": []}"#), "no list of files"),
        (
            text(r#"{"sha": "../../../evil", "siblings": []}"#),
            "`sha` is",
        ),
        (text(r#"{"sha": "", "siblings": []}"#), "`sha` is"),
        (
            format!(r#"{{"sha": "{COMMIT}", "siblings": []}}"#).into_bytes(),
            "no `model.safetensors`",
        ),
        (vec![b' '; (16 << 20) + 1], "longer than"),
    ] {
        let server = FakeHub::start(Repository::of("qwen2_tied"));
        let cache = tempfile::tempdir().unwrap();
        server.repository().listing = Some(listing);
        let message = failure(&server, cache.path());
        assert!(
            message.contains(expected) && message.contains(NAME),
            "{message}"
        );
        assert!(names(cache.path()).is_empty(), "{message}");
    }
}

#[test]
fn names_of_files_do_not_lead_out_of_the_cache() {
    let server = FakeHub::start(Repository::of("qwen2_tied"));
    server.repository().put("../../../../evil.json", "evil");
    server.repository().put("/tmp/config.json", "evil");
    let root = tempfile::tempdir().unwrap();
    let cache = root.path().join("cache");
    let directory = server.client(&cache).fetch(NAME).unwrap();
    assert_eq!(
        names(&directory),
        ["config.json", WEIGHTS].map(str::to_owned).into()
    );
    assert_eq!(names(root.path()), ["cache".to_owned()].into());

    for shard in [
        "../../../evil.safetensors",
        "/tmp/evil.safetensors",
        "a?b",
        "..",
    ] {
        let server = FakeHub::start(Repository::of("qwen2_tied_sharded"));
        let index = serde_json::json!({"weight_map": {"model.norm.weight": shard}}).to_string();
        server
            .repository()
            .put("model.safetensors.index.json", &index);
        server.repository().put(shard, "evil");
        let cache = tempfile::tempdir().unwrap();
        let message = failure(&server, cache.path());
        assert!(
            message.contains("index.json") && message.contains(shard),
            "{message}"
        );
        assert!(server.large_files.take_requests().is_empty());
    }
}

#[test]
fn a_link_out_of_the_cache_is_not_followed() {
    let server = FakeHub::start(Repository::of("qwen2_tied"));
    let root = tempfile::tempdir().unwrap();
    let outside = root.path().join("outside.json");
    std::fs::write(&outside, "{}").unwrap();
    let cache = root.path().join("cache");
    let snapshot = folder(&cache).join("snapshots").join(COMMIT);
    std::fs::create_dir_all(&snapshot).unwrap();
    std::os::unix::fs::symlink(&outside, snapshot.join("config.json")).unwrap();
    let message = failure(&server, &cache);
    assert!(message.contains("inside the cache"), "{message}");
}

#[test]
fn redirects_end_and_stay_on_the_web() {
    for location in [
        "file:///etc/passwd",
        "",
        "//127.0.0.1/x",
        "ftp://127.0.0.1/x",
    ] {
        let server = FakeHub::start(Repository::of("qwen2_tied"));
        server.repository().location = Some(location.to_owned());
        let cache = tempfile::tempdir().unwrap();
        let message = failure(&server, cache.path());
        assert!(
            message.contains("redirects") && message.contains(WEIGHTS),
            "{message}"
        );
    }
    let server = Server::start(|_| Reply::status(302).with("Location", "/again"));
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::new()
        .with_endpoint(&server.url)
        .with_cache_dir(cache.path());
    let error = hub
        .with_offline(false)
        .with_token(None)
        .fetch(NAME)
        .unwrap_err();
    assert!(matches!(error, Error::Download { .. }), "{error}");
    assert!(error.to_string().contains("redirects"), "{error}");
    assert_eq!(server.take_requests().len(), 9);
}
