use super::*;

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn replaces_a_whole_directory() {
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("x");
    for name in ["a", "b"] {
        let staged = Staged::new(&target).unwrap();
        staged.write(name, b"1").unwrap();
        staged.replace().unwrap();
        assert_eq!(names(&target), [name]);
    }
    assert_eq!(names(root.path()), ["x"]);
}

#[test]
fn a_replaced_directory_keeps_what_it_is_asked_to() {
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("x");
    fs::create_dir_all(target.join("mine/deep")).unwrap();
    for name in ["a", "b", "c", "mine/deep/d"] {
        fs::write(target.join(name), "old").unwrap();
    }
    let staged = Staged::new(&target).unwrap();
    staged.write("a", b"new").unwrap();
    staged.replace_keeping(|name| name != "b").unwrap();
    assert_eq!(names(&target), ["a", "c", "mine"]);
    let read = |name: &str| fs::read_to_string(target.join(name)).unwrap();
    assert_eq!([read("a"), read("c")], ["new", "old"]);
    assert_eq!(read("mine/deep/d"), "old");
    assert_eq!(names(root.path()), ["x"]);
}

#[test]
fn files_are_written_in_parts_and_copied() {
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("x");
    let staged = Staged::new(&target).unwrap();
    let mut file = staged.create("folder/a").unwrap();
    file.write(b"12").unwrap();
    file.write(b"34").unwrap();
    file.finish().unwrap();
    let source = root.path().join("source");
    fs::write(&source, "56").unwrap();
    staged.copy(&source, "b").unwrap();
    let missing = root.path().join("missing");
    let error = staged.copy(&missing, "c").unwrap_err().to_string();
    assert!(error.contains(missing.to_str().unwrap()), "{error}");
    staged.replace().unwrap();
    assert_eq!(names(&target), ["b", "folder"]);
    assert_eq!(fs::read(target.join("folder/a")).unwrap(), b"1234");
    assert_eq!(fs::read(target.join("b")).unwrap(), b"56");
}

#[test]
fn where_places_cannot_change_in_one_step_two_do() {
    let root = tempfile::tempdir().unwrap();
    let (target, aside) = (root.path().join("x"), root.path().join("aside"));
    fs::create_dir(&target).unwrap();
    fs::write(target.join("old"), "1").unwrap();
    let staged = Staged::new(&target).unwrap();
    staged.write("new", b"1").unwrap();
    staged.take_place_in_two_steps(&aside).unwrap();
    drop(staged);
    assert_eq!([names(&target), names(&aside)], [["new"], ["old"]]);
    fs::remove_dir_all(&aside).unwrap();
    // What should take the place is gone.
    let staged = Staged::new(&target).unwrap();
    fs::remove_dir_all(&staged.staging.path).unwrap();
    staged.take_place_in_two_steps(&aside).unwrap_err();
    staged.take_place_of_old(&aside).unwrap_err();
    assert_eq!(names(&target), ["new"]);
    assert_eq!(names(root.path()), ["x"]);
}

/// Another thread sees the directory whole at every moment.
#[test]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn a_directory_that_is_replaced_is_never_gone() {
    let root = tempfile::tempdir().unwrap();
    let (target, other) = (root.path().join("x"), root.path().join("y"));
    let replace = || {
        let staged = Staged::new(&target).unwrap();
        staged.write("a", b"1").unwrap();
        staged.replace().unwrap();
    };
    replace();
    fs::create_dir(&other).unwrap();
    {
        use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
        let flags = RenameFlags::RENAME_EXCHANGE;
        let swapped = renameat2(AT_FDCWD, &target, AT_FDCWD, &other, flags);
        if swapped == Err(nix::errno::Errno::EINVAL) {
            return; // A file system that cannot.
        }
    }
    assert!(exchange(&target, &other));
    std::thread::scope(|scope| {
        let replacing = scope.spawn(|| (0..50).for_each(|_| replace()));
        while !replacing.is_finished() {
            assert!(target.join("a").exists());
        }
    });
    assert_eq!(names(root.path()), ["x", "y"]);
}

#[test]
fn an_unfinished_directory_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("x");
    let staged = Staged::new(&target).unwrap();
    staged.write("a", b"1").unwrap();
    drop(staged);
    assert!(names(root.path()).is_empty());
}

#[test]
fn a_file_is_replaced_whole_or_not_at_all() {
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("folder/x");
    for contents in ["1", "2"] {
        replace_file(&target, |path| {
            fs::write(path, contents).map_err(|e| Error::io(path, "", e))
        })
        .unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), contents);
    }
    let failed = replace_file(&target, |path| {
        fs::write(path, "half").map_err(|e| Error::io(path, "", e))?;
        Err(Error::Cancelled)
    });
    assert!(matches!(failed, Err(Error::Cancelled)));
    assert_eq!(fs::read_to_string(&target).unwrap(), "2");
    assert_eq!(names(target.parent().unwrap()), ["x"]);
    // A directory is in the way.
    let failed = replace_file(target.parent().unwrap(), |path| {
        fs::write(path, "3").map_err(|e| Error::io(path, "", e))
    });
    assert!(matches!(failed, Err(Error::Io { .. })));
    assert_eq!(names(root.path()), ["folder"]);
}

fn in_threads(save: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let save = &save;
            scope.spawn(move || (0..20).for_each(|_| save(thread)));
        }
    });
}

#[test]
fn threads_may_make_one_file() {
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("x");
    in_threads(|thread| {
        let contents = thread.to_string().repeat(1 + 5000 * thread);
        let write = |path: &Path| {
            fs::write(path, &contents).map_err(|e| Error::io(path, "a writable file", e))
        };
        replace_file(&target, write).unwrap();
        let found = fs::read_to_string(&target).unwrap();
        let first = usize::from(found.as_bytes()[0] - b'0');
        assert_eq!(found, first.to_string().repeat(1 + 5000 * first));
    });
    assert_eq!(names(root.path()), ["x"]);
}

#[test]
fn threads_may_make_one_directory() {
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("x");
    in_threads(|thread| {
        let staged = Staged::new(&target).unwrap();
        for name in ["a", "b"] {
            staged.write(name, thread.to_string().as_bytes()).unwrap();
        }
        staged.replace().unwrap();
    });
    assert_eq!(names(root.path()), ["x"]);
    let [a, b] = ["a", "b"].map(|name| fs::read(target.join(name)).unwrap());
    assert_eq!(a, b);
    in_threads(|thread| {
        let staged = Staged::new(&target).unwrap();
        staged.write("c", thread.to_string().as_bytes()).unwrap();
        staged.merge().unwrap();
    });
    assert_eq!(names(&target), ["a", "b", "c"]);
}

#[test]
fn what_a_process_left_that_died_is_cleared() {
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("x");
    // Other tests may have the lowest numbers.
    let id = std::process::id();
    let left: Vec<_> = (0..100).map(|n| format!(".x.partial-{id}-{n}")).collect();
    for name in left.iter().map(String::as_str).chain(["x", ".x.old"]) {
        fs::create_dir(root.path().join(name)).unwrap();
        fs::write(root.path().join(name).join("left"), "").unwrap();
    }
    let staged = Staged::new(&target).unwrap();
    staged.write("a", b"1").unwrap();
    staged.replace().unwrap();
    assert_eq!(names(&target), ["a"]);
    assert_eq!(names(root.path()).len(), 100);
}

#[test]
fn numbers_are_used_again() {
    let staging = |_| Staging::beside(Path::new("x")).unwrap().path.clone();
    let used: BTreeSet<_> = (0..1000).map(staging).collect();
    assert!(used.len() < 100, "{}", used.len());
}

#[test]
fn merges_into_a_directory() {
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("x");
    for name in ["a", "b"] {
        let staged = Staged::new(&target).unwrap();
        staged.write(name, b"1").unwrap();
        staged.merge().unwrap();
    }
    assert_eq!(names(&target), ["a", "b"]);
}
