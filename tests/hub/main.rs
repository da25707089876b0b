//! Downloads from a hub on this machine: what is asked for, what is kept, and what goes wrong.

#[path = "../common/mod.rs"]
mod common;
mod hostile;
mod repository;
mod server;

use common::{TINY_CODER, all_logits, fixture, load_f32, to_f64};
use metal_candle::checkpoint::GgufType;
use metal_candle::hub::is_repo_name;
use metal_candle::{Error, ErrorKind, Hub, ModelLoader};
use repository::{COMMIT, FakeHub, NAME, Repository};
use server::Reply;
use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

const WEIGHTS: &str = "model.safetensors";

/// The folder of the repository in a cache.
fn folder(cache: &Path) -> PathBuf {
    cache.join("models--org--tiny")
}

/// The names of the files in a directory.
fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Asserts that a directory has a fixture's files and that the model gives the same as the fixture.
fn assert_is_model(directory: &Path, model: &str) {
    let tokens = [1, 5, 9, 2, 30, 7];
    let logits = |path: &Path| to_f64(&all_logits(&load_f32(path), &tokens, None));
    let found = logits(directory);
    assert!(!found.is_empty() && found.iter().all(|x| x.is_finite()));
    assert_eq!(found, logits(&fixture("models").join(model)));
}

#[test]
fn what_a_model_needs_is_downloaded_once() {
    let mut repository = Repository::of("qwen2_tied");
    repository.put("pytorch_model.bin", "another form of the weights");
    repository.put("generation_config.json", r#"{"eos_token_id": 207}"#);
    repository.put("special_tokens_map.json", "{}");
    repository.put("additional_chat_templates/tool_use.jinja", "{{ messages }}");
    let server = FakeHub::start(repository);
    let cache = tempfile::tempdir().unwrap();
    let hub = server.client(cache.path());

    let directory = hub.fetch(NAME).unwrap();
    let repo = folder(cache.path());
    assert_eq!(directory, repo.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    let expected = [
        "additional_chat_templates",
        "config.json",
        "generation_config.json",
        WEIGHTS,
        "special_tokens_map.json",
    ];
    assert_eq!(names(&directory), expected.map(str::to_owned).into());
    for name in [WEIGHTS, "config.json"] {
        let etag = server.repository().etag(name);
        let link = fs::read_link(directory.join(name)).unwrap();
        assert_eq!(link, Path::new("../../blobs").join(&etag));
        assert_eq!(
            fs::read(repo.join("blobs").join(etag)).unwrap(),
            server.repository().files[name]
        );
    }
    let nested = directory.join("additional_chat_templates/tool_use.jinja");
    assert_eq!(fs::read_to_string(nested).unwrap(), "{{ messages }}");
    assert_eq!(names(&repo.join("blobs")).len(), expected.len());
    assert_is_model(&directory, "qwen2_tied");
    assert_eq!(server.large_files.take_requests().len(), 1);
    assert!(server.hub.take_requests().len() > 5);

    assert_eq!(hub.fetch(NAME).unwrap(), directory);
    let requests = server.hub.take_requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert!(requests[0].path.starts_with("/api/models/"));
    assert!(server.large_files.take_requests().is_empty());
}

#[test]
fn a_transfer_that_breaks_goes_on_where_it_was() {
    let server = FakeHub::start(Repository::of("qwen2_tied"));
    server.repository().cuts = vec![100_000, 50_000];
    let cache = tempfile::tempdir().unwrap();
    let directory = server.client(cache.path()).fetch(NAME).unwrap();
    assert_is_model(&directory, "qwen2_tied");

    let requests = server.large_files.take_requests();
    let from: Vec<_> = requests.iter().map(server::Request::first_byte).collect();
    assert_eq!(from, [None, Some(100_000), Some(150_000)]);
    let sent: usize = requests.iter().map(|request| request.sent).sum();
    assert_eq!(sent, server.repository().files[WEIGHTS].len());
    assert!(
        names(&folder(cache.path()).join("blobs"))
            .iter()
            .all(|name| !name.contains("incomplete"))
    );
}

#[test]
fn a_later_call_goes_on_where_another_program_was_cut_off() {
    let server = FakeHub::start(Repository::of("qwen2_tied"));
    let cache = tempfile::tempdir().unwrap();
    let blobs = folder(cache.path()).join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    let (etag, weights) = {
        let repository = server.repository();
        (repository.etag(WEIGHTS), repository.files[WEIGHTS].clone())
    };
    fs::write(blobs.join(format!("{etag}.incomplete")), &weights[..777]).unwrap();
    let directory = server.client(cache.path()).fetch(NAME).unwrap();
    assert_is_model(&directory, "qwen2_tied");
    let requests = server.large_files.take_requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].first_byte(), Some(777));
}

#[test]
fn a_server_that_knows_no_ranges_sends_all_again() {
    let server = FakeHub::start(Repository::of("qwen2_tied"));
    server.repository().cuts = vec![100_000];
    server.repository().ignores_ranges = true;
    let cache = tempfile::tempdir().unwrap();
    let directory = server.client(cache.path()).fetch(NAME).unwrap();
    assert_is_model(&directory, "qwen2_tied");
    assert_eq!(server.large_files.take_requests().len(), 2);
}

#[test]
fn an_answer_that_may_pass_is_waited_for() {
    let server = FakeHub::start(Repository::of("qwen2_tied"));
    server.repository().refusals = vec![Reply::status(503), Reply::status(429)];
    let cache = tempfile::tempdir().unwrap();
    server.client(cache.path()).fetch(NAME).unwrap();
}

#[test]
fn a_model_in_shards_comes_with_all_of_them() {
    let server = FakeHub::start(Repository::of("qwen2_tied_sharded"));
    let cache = tempfile::tempdir().unwrap();
    let hub = server.client(cache.path());
    let directory = hub.fetch(NAME).unwrap();
    assert_is_model(&directory, "qwen2_tied_sharded");
    assert_eq!(server.large_files.take_requests().len(), 3);
    assert_eq!(
        hub.clone().with_offline(true).fetch(NAME).unwrap(),
        directory
    );

    let shard = directory.join("model-00002-of-00003.safetensors");
    fs::remove_file(&shard).unwrap();
    let error = hub.clone().with_offline(true).fetch(NAME).unwrap_err();
    assert!(
        matches!(&error, Error::FileNotFound { path, .. } if *path == shard),
        "{error}"
    );
    // The contents are there still, so that only their name is missing.
    assert_eq!(hub.fetch(NAME).unwrap(), directory);
    assert!(server.large_files.take_requests().is_empty());
    assert!(shard.exists());

    server
        .repository()
        .files
        .remove("model-00003-of-00003.safetensors");
    let error = hub
        .with_cache_dir(cache.path().join("other"))
        .fetch(NAME)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("no `model-00003-of-00003.safetensors`"),
        "{error}"
    );
}

#[test]
fn other_weights_are_taken_where_there_are_no_safetensors_or_where_asked_for() {
    let server = FakeHub::start(Repository::of("qwen2_tied_pickle"));
    server.repository().put("tiny-Q4_K_M.gguf", "GGUF");
    let cache = tempfile::tempdir().unwrap();
    let hub = server.client(cache.path());
    let directory = hub.fetch(NAME).unwrap();
    assert_eq!(
        names(&directory),
        ["config.json", "pytorch_model.bin"]
            .map(str::to_owned)
            .into()
    );

    let asking = hub.clone().with_gguf("tiny-Q4_K_M.gguf");
    // Not the directory, where other weights lie beside it.
    let file = asking.fetch(NAME).unwrap();
    assert_eq!(file, directory.join("tiny-Q4_K_M.gguf"));
    assert_eq!(fs::read_to_string(&file).unwrap(), "GGUF");
    assert_eq!(asking.with_offline(true).fetch(NAME).unwrap(), file);

    server.repository().files.remove("pytorch_model.bin");
    let error = hub.fetch(NAME).unwrap_err().to_string();
    assert!(
        error.contains("no `model.safetensors`") && error.contains("tiny-Q4_K_M.gguf"),
        "{error}"
    );
    let error = hub.with_gguf("../x.gguf").fetch(NAME).unwrap_err();
    assert!(
        matches!(error, Error::InvalidOption { name: "gguf", .. }),
        "{error}"
    );
}

#[test]
fn a_revision_is_part_of_the_name_or_of_the_hub() {
    let server = FakeHub::start(Repository::of("qwen2_tied"));
    server.repository().revision = "refs/pr/1";
    let cache = tempfile::tempdir().unwrap();
    let hub = server.client(cache.path());
    let directory = hub.fetch("org/tiny@refs/pr/1").unwrap();
    let reference = folder(cache.path()).join("refs/refs/pr/1");
    assert_eq!(fs::read_to_string(reference).unwrap(), COMMIT);
    assert_eq!(
        hub.clone().with_revision("refs/pr/1").fetch(NAME).unwrap(),
        directory
    );
    let by_commit = format!("{NAME}@{COMMIT}");
    assert_eq!(hub.fetch(&by_commit).unwrap(), directory);
    assert_eq!(
        hub.clone().with_offline(true).fetch(&by_commit).unwrap(),
        directory
    );

    let error = hub.fetch(NAME).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("no such revision"), "{error}");
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let server = FakeHub::start(Repository::of("qwen2_tied"));
    server.repository().token = Some("hf_secret");
    let cache = tempfile::tempdir().unwrap();
    let hub = server.client(cache.path());
    let error = hub.fetch(NAME).unwrap_err().to_string();
    assert!(
        error.contains("401") && error.contains("gated") && error.contains("HF_TOKEN"),
        "{error}"
    );
    let error = hub
        .clone()
        .with_token(Some("hf_other".to_owned()))
        .fetch(NAME);
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("401") && !error.contains("hf_other"),
        "{error}"
    );
    server.hub.take_requests();

    let hub = hub.with_token(Some("hf_secret".to_owned()));
    assert!(!format!("{hub:?}").contains("hf_secret"));
    assert_is_model(&hub.fetch(NAME).unwrap(), "qwen2_tied");
    let requests = server.hub.take_requests();
    assert!(!requests.is_empty());
    assert!(
        requests
            .iter()
            .all(|request| request.headers["authorization"] == "Bearer hf_secret")
    );
    let elsewhere = server.large_files.take_requests();
    assert_eq!(elsewhere.len(), 1);
    assert!(!elsewhere[0].headers.contains_key("authorization"));
}

#[test]
fn what_does_not_exist_or_is_no_name_is_refused() {
    let server = FakeHub::start(Repository::of("qwen2_tied"));
    let cache = tempfile::tempdir().unwrap();
    let hub = server.client(cache.path());
    let error = hub.fetch("org/other").unwrap_err();
    assert!(
        matches!(&error, Error::Download { url, .. } if url.contains("org/other")),
        "{error}"
    );
    assert!(
        error.to_string().contains("404") && error.to_string().contains("no such repository"),
        "{error}"
    );
    server.hub.take_requests();
    for name in [
        "tiny",
        "../tiny",
        "/org/tiny",
        "org/tiny/x",
        "org/ti ny",
        "org/tiny@../x",
    ] {
        let error = hub.fetch(name).unwrap_err();
        assert!(
            matches!(error, Error::InvalidOption { .. }),
            "{name}: {error}"
        );
        assert!(!is_repo_name(name));
    }
    assert!(server.hub.take_requests().is_empty());
    assert!(is_repo_name(NAME));
}

#[test]
fn a_cache_that_python_wrote_is_found() {
    let server = FakeHub::start(Repository::of("qwen2_tied"));
    let cache = tempfile::tempdir().unwrap();
    let repo = folder(cache.path());
    let snapshot = repo.join("snapshots").join(COMMIT);
    for folder in [&repo.join("blobs"), &repo.join("refs"), &snapshot] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(repo.join("refs/main"), COMMIT).unwrap();
    for name in ["config.json", WEIGHTS] {
        let blob = Path::new("blobs").join(server.repository().etag(name));
        fs::write(repo.join(&blob), &server.repository().files[name]).unwrap();
        std::os::unix::fs::symlink(Path::new("../..").join(blob), snapshot.join(name)).unwrap();
    }
    let hub = server.client(cache.path());
    let directory = hub.clone().with_offline(true).fetch(NAME).unwrap();
    assert!(server.hub.take_requests().is_empty());
    assert_eq!(directory, snapshot);
    assert_is_model(&directory, "qwen2_tied");
    assert_eq!(hub.fetch(NAME).unwrap(), snapshot);
    assert_eq!(server.hub.take_requests().len(), 1);
}

#[test]
fn offline_what_is_missing_is_named() {
    let server = FakeHub::start(Repository::of("qwen2_tied"));
    let cache = tempfile::tempdir().unwrap();
    let hub = server.client(cache.path());
    let offline = hub.clone().with_offline(true);
    let error = offline.fetch(NAME).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let message = error.to_string();
    for part in ["refs/main", NAME, "HF_HUB_OFFLINE"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(server.hub.take_requests().is_empty());

    let directory = hub.fetch(NAME).unwrap();
    for name in ["config.json", WEIGHTS] {
        fs::remove_file(directory.join(name)).unwrap();
        let error = offline.fetch(NAME).unwrap_err();
        assert!(
            matches!(&error, Error::FileNotFound { path, .. } if path.ends_with(name)),
            "{error}"
        );
    }
}

/// The address of a hub that is not there.
fn nowhere() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    // The port is free again when this ends.
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn a_hub_that_cannot_be_reached_leaves_what_the_cache_has() {
    let server = FakeHub::start(Repository::of("qwen2_tied"));
    let cache = tempfile::tempdir().unwrap();
    let hub = server.client(cache.path());
    let directory = hub.fetch(NAME).unwrap();
    assert_eq!(hub.with_endpoint(nowhere()).fetch(NAME).unwrap(), directory);
}

#[test]
fn a_hub_that_cannot_be_reached_is_named() {
    let server = FakeHub::start(Repository::default());
    let cache = tempfile::tempdir().unwrap();
    let (hub, nowhere) = (server.client(cache.path()), nowhere());
    let error = hub.with_endpoint(&nowhere).fetch(NAME).unwrap_err();
    assert!(
        matches!(&error, Error::Download { url, .. } if url.starts_with(&nowhere)),
        "{error}"
    );
}

#[test]
fn progress_counts_every_byte_and_can_cancel() {
    let server = FakeHub::start(Repository::of("qwen2_tied_sharded"));
    let cache = tempfile::tempdir().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let hub = server.client(cache.path()).with_progress(move |p| {
        assert!(p.file_bytes <= p.file_size && p.bytes <= p.size);
        log.lock()
            .unwrap()
            .push((p.file.to_owned(), p.file_bytes, p.bytes, p.size));
        let is_second = p.file.starts_with("model-00002") && p.file_bytes > 0;
        if is_second {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert!(matches!(hub.fetch(NAME).unwrap_err(), Error::Cancelled));
    assert!(!folder(cache.path()).join("refs/main").exists());
    let (_, there, _, _) = seen.lock().unwrap().last().cloned().unwrap();
    server.large_files.take_requests();

    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let hub = hub.with_progress(move |p| {
        log.lock().unwrap().push((p.bytes, p.size));
        ControlFlow::Continue(())
    });
    assert_is_model(&hub.fetch(NAME).unwrap(), "qwen2_tied_sharded");
    let requests = server.large_files.take_requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].first_byte().unwrap() as u64, there);
    let seen = seen.lock().unwrap();
    assert!(seen.iter().is_sorted_by_key(|(bytes, _)| *bytes));
    let files = &server.repository().files;
    let rest = files["model-00002-of-00003.safetensors"].len()
        + files["model-00003-of-00003.safetensors"].len();
    assert_eq!(*seen.last().unwrap(), (rest as u64, rest as u64));
}

#[test]
fn two_that_fetch_at_once_download_once() {
    let server = FakeHub::start(Repository::of("qwen2_tied"));
    let cache = tempfile::tempdir().unwrap();
    let hub = server.client(cache.path());
    let directories: Vec<_> = std::thread::scope(|scope| {
        let threads = [0; 4].map(|_| scope.spawn(|| hub.fetch(NAME).unwrap()));
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(
        directories
            .iter()
            .all(|directory| *directory == directories[0])
    );
    assert_is_model(&directories[0], "qwen2_tied");
    assert_eq!(server.large_files.take_requests().len(), 1);
}

#[test]
fn a_loader_takes_names() {
    let server = FakeHub::start(Repository::of("qwen2_tied"));
    let cache = tempfile::tempdir().unwrap();
    let hub = server.client(cache.path());
    let model = ModelLoader::new().with_hub(hub).load(NAME).unwrap();
    assert!(model.path().starts_with(cache.path()));
    assert_eq!(model.config().vocab_size, 208);
    // What is there is no name, and inspecting downloads nothing.
    server.hub.take_requests();
    let loader = ModelLoader::new().with_hub(server.client(cache.path()));
    assert!(loader.load(TINY_CODER).is_ok());
    assert!(matches!(
        loader.inspect(NAME),
        Err(Error::FileNotFound { .. })
    ));
    assert!(server.hub.take_requests().is_empty());
}

#[test]
fn of_several_models_in_a_repository_the_one_asked_for_is_loaded() {
    let mut repository = Repository::of("qwen2_tied");
    let folder = tempfile::tempdir().unwrap();
    let original = load_f32(TINY_CODER);
    for (name, kind) in [
        ("a-Q8_0.gguf", GgufType::Q8_0),
        ("a-BF16.gguf", GgufType::Bf16),
    ] {
        let path = folder.path().join(name);
        original.save_gguf(&path, kind).unwrap();
        repository
            .files
            .insert(name.to_owned(), fs::read(path).unwrap());
    }
    let server = FakeHub::start(repository);
    let cache = tempfile::tempdir().unwrap();
    let hub = server.client(cache.path());
    let load = |hub: Hub| ModelLoader::new().with_hub(hub).load(NAME).unwrap();
    assert_eq!(load(hub.clone()).config().vocab_size, 208);
    let quantised = load(hub.clone().with_gguf("a-Q8_0.gguf"));
    assert!(quantised.is_quantized());
    let model = load(hub.with_gguf("a-BF16.gguf"));
    assert!(!model.is_quantized());
    assert_eq!(model.config().vocab_size, original.config().vocab_size);
}
