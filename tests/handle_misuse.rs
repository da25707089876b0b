//! What `src/ffi/handle.rs` and `exclusive.rs` let no function of the C API do: programs that must not
//! compile, each with the error that the compiler gives. The files are compiled by themselves, with
//! stand-ins for the few items that they use, so that no other error can hide behind the expected one.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const STAND_INS: &str = r#"
extern crate self as parking_lot;

/// As parking_lot's: without poisoning, and shared between threads where the value may move.
pub struct Mutex<T>(std::sync::Mutex<T>);
impl<T> Mutex<T> {
    pub fn new(value: T) -> Self { Self(std::sync::Mutex::new(value)) }
    pub fn lock(&self) -> std::sync::MutexGuard<'_, T> { self.0.lock().unwrap() }
}
impl<T> std::fmt::Debug for Mutex<T> {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { Ok(()) }
}

pub mod ffi {
    pub mod error {
        pub const MCANDLE_BUSY: i32 = 0;
        pub const MCANDLE_INTERNAL: i32 = 0;
        pub const MCANDLE_INVALID_ARGUMENT: i32 = 0;
        pub const MCANDLE_INVALID_UTF8: i32 = 0;
        pub const MCANDLE_NULL_POINTER: i32 = 0;
        #[derive(Debug)]
        pub struct mcandle_error;
        impl mcandle_error {
            pub fn new(_: i32, _: impl Into<String>) -> Self { Self }
        }
    }
    pub mod panic {
        use super::error::mcandle_error;
        pub unsafe fn guard(
            _: *mut *mut mcandle_error,
            body: impl FnOnce() -> Result<(), mcandle_error>,
        ) -> i32 { i32::from(body().is_err()) }
    }
    #[path = "FOLDER/handle.rs"]
    pub mod handle;
    #[path = "FOLDER/exclusive.rs"]
    pub mod exclusive;
    pub mod case {
        #![allow(unused)]
        use super::exclusive::Exclusive;
        use super::handle::{self, Out, Result, borrow, free, items};
        use std::cell::Cell;
        fn is_send<T: Send>(_: T) {}
        fn is_sync<T: Sync>(_: &T) {}
        unsafe fn case(slot: *mut *mut u8, object: &Exclusive<u8>) -> Result<()> {
            BODY
            Ok(())
        }
    }
}
"#;

/// Compiles the body of a function that has a place for an output and an object of one user.
fn compile(body: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ffi");
    let program = STAND_INS
        .replace("FOLDER", sources.to_str().unwrap())
        .replace("BODY", body);
    let path = folder.path().join("case.rs");
    fs::write(&path, program).unwrap();
    Command::new(env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned()))
        .args([
            "--edition",
            "2024",
            "--crate-type",
            "lib",
            "--crate-name",
            "case",
        ])
        .args(["--emit", "metadata", "--cap-lints", "allow", "--out-dir"])
        .arg(folder.path())
        .arg(path)
        .output()
        .unwrap()
}

fn assert_refused(body: &str, error: &str) {
    let output = compile(body);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "this compiles: {body}");
    assert!(
        message.contains(error),
        "{body}: not {error}, but {message}"
    );
    let count = message
        .lines()
        .filter(|line| line.starts_with("error"))
        .count();
    // The last one counts the others.
    assert_eq!(count, 2, "{body}: {message}");
}

fn assert_accepted(body: &str) {
    let output = compile(body);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{body}: {message}");
}

const OUT: &str = "let out = Out::new(slot, \"x\")?;";

#[test]
fn an_output_is_given_once() {
    assert_accepted(&format!("{OUT} out.give(1);"));
    assert_accepted(&format!("{OUT} out.give_nothing();"));
    assert_refused(&format!("{OUT} out.give(1); out.give(2);"), "error[E0382]");
    assert_refused(
        &format!("{OUT} out.give(1); out.give_nothing();"),
        "error[E0382]",
    );
    assert_refused(&format!("{OUT} out.give(\"text\");"), "error[E0308]");
}

#[test]
fn an_output_is_checked_before_it_is_used() {
    assert_refused("let out = Out { slot };", "error[E0451]");
    assert_refused(&format!("{OUT} *out.slot = 1 as *mut u8;"), "error[E0616]");
    // Not without the promise that the place is writable.
    assert_refused(
        "fn safe(slot: *mut *mut u8) { Out::new(slot, \"x\"); }",
        "error[E0133]",
    );
}

#[test]
fn an_output_stays_on_its_thread() {
    assert_accepted("is_send(1_u8);");
    assert_refused(&format!("{OUT} is_send(out);"), "error[E0277]");
}

#[test]
fn a_value_stays_behind_its_lock() {
    assert_accepted("object.with(\"x\", |value| { *value = 1; Ok(()) })?;");
    let escapes = "object.with(\"x\", |value| Ok(value))?;";
    assert_refused(escapes, "lifetime may not live long enough");
    assert_refused("object.value.lock();", "error[E0616]");
    assert_refused("object.broken;", "error[E0616]");
    let nested = "object.with(\"x\", |value| { free(value); let taken = *object; Ok(()) })?;";
    assert_refused(nested, "error[E0507]");
}

#[test]
fn only_what_may_move_is_shared() {
    assert_accepted("is_sync(object); is_sync(&Exclusive::new(Cell::new(1)));");
    let local = "is_sync(&Exclusive::new(std::rc::Rc::new(1)));";
    assert_refused(local, "error[E0277]");
    assert_refused(
        "is_send(Exclusive::new(std::rc::Rc::new(1)));",
        "error[E0277]",
    );
}

#[test]
fn pointers_are_borrowed_with_a_promise_only() {
    assert_accepted("let value: &u8 = borrow(*slot, \"x\")?;");
    let safe = "fn safe(pointer: *const u8) { let _ = borrow(pointer, \"x\"); }";
    assert_refused(safe, "error[E0133]");
    assert_refused(
        "fn safe(pointer: *mut u8) { free(pointer); }",
        "error[E0133]",
    );
    assert_refused(
        "fn safe(pointer: *const u8) { items(pointer, 1, \"x\"); }",
        "error[E0133]",
    );
    // What is borrowed for reading is not written.
    assert_refused("*borrow(*slot, \"x\")? = 1;", "error[E0594]");
}
