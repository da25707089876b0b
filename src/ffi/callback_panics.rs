//! Callbacks in Rust that panic: the call is MCANDLE_INTERNAL, and the object refuses further ones.

use super::*;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{null, null_mut};

const MODEL: &CStr = c"assets/tiny-coder";
const PROMPT: &[u32] = &[1, 2, 3];

unsafe extern "C-unwind" fn on_chunk(_: *const mcandle_chunk, _: *mut c_void) -> bool {
    panic!("a chunk")
}

#[cfg(feature = "training")]
unsafe extern "C-unwind" fn on_event(_: *const mcandle_train_event, _: *mut c_void) -> bool {
    panic!("an event")
}

unsafe extern "C-unwind" fn on_piece(_: *const mcandle_piece, _: *mut c_void) {
    panic!("a piece")
}

unsafe extern "C-unwind" fn on_progress(_: u64, _: u64, _: *mut c_void) -> bool {
    panic!("progress")
}

#[cfg(feature = "training")]
unsafe extern "C-unwind" fn next_row(_: *mut *const c_char, _: *mut usize, _: *mut c_void) -> i32 {
    panic!("a row")
}

unsafe extern "C-unwind" fn on_logits(
    _: *const u32,
    _: usize,
    _: *mut f32,
    _: usize,
    _: *mut c_void,
) -> bool {
    panic!("logits")
}

unsafe extern "C-unwind" fn on_free(_: *mut c_void) {
    panic!("freeing")
}

/// Runs a call, which has to fail as one whose callback panicked, with its message.
fn assert_internal(call: impl FnOnce(*mut *mut mcandle_error) -> mcandle_status, reason: &str) {
    let mut error = null_mut();
    assert_eq!(call(&raw mut error), MCANDLE_INTERNAL, "{reason}");
    // SAFETY: the call gave an error, which is freed once.
    unsafe {
        let message = CStr::from_ptr(mcandle_error_message(error)).to_str();
        assert!(message.unwrap().contains(reason), "{message:?}");
        mcandle_error_free(error);
    }
}

fn c_model() -> *mut mcandle_model {
    let mut model = null_mut();
    // SAFETY: the path ends with a NUL, and the output is writable.
    let status = unsafe { mcandle_model_load(MODEL.as_ptr(), null(), &raw mut model, null_mut()) };
    assert_eq!(status, MCANDLE_OK);
    model
}

#[test]
fn a_generator_and_a_batch_are_given_up() {
    let model = c_model();
    let (mut generator, mut batch, none) = (null_mut(), null_mut(), null_mut());
    let (ids, count) = (PROMPT.as_ptr(), PROMPT.len());
    let unusable = "unusable since an internal error";
    // SAFETY: the objects are live until they are freed, once; the ids have their length.
    unsafe {
        for logits in [false, true] {
            mcandle_generator_new(model, &raw mut generator, none);
            let callback: mcandle_chunk_callback = if logits { None } else { Some(on_chunk) };
            if logits {
                let processor: mcandle_logits_callback = Some(on_logits);
                mcandle_generator_set_logits_processor(
                    generator,
                    processor,
                    none.cast(),
                    None,
                    none,
                );
            }
            let generate = |error| {
                let (options, data, to) = (null(), null_mut(), null_mut());
                mcandle_generator_generate_from_ids(
                    generator, ids, count, options, callback, data, to, error,
                )
            };
            assert_internal(generate, if logits { "logits" } else { "a chunk" });
            assert_internal(generate, unusable);
            assert_internal(
                |error| mcandle_generator_truncate(generator, 0, error),
                unusable,
            );
            mcandle_generator_free(generator);
        }
        mcandle_batch_new(model, 2, &raw mut batch, none);
        mcandle_batch_push_ids(batch, ids, count, null(), null_mut(), none);
        let run = |error| mcandle_batch_run(batch, Some(on_chunk), null_mut(), null_mut(), error);
        assert_internal(run, "a chunk");
        assert_internal(run, unusable);
        mcandle_batch_free(batch);

        // The model is not what was used, and goes on.
        mcandle_generator_new(model, &raw mut generator, none);
        let status = mcandle_generator_generate_from_ids(
            generator,
            ids,
            count,
            null(),
            None,
            null_mut(),
            null_mut(),
            none,
        );
        assert_eq!(status, MCANDLE_OK);
        mcandle_generator_free(generator);
        mcandle_model_free(model);
    }
}

#[test]
fn loading_and_parsing_fail() {
    let model = c_model();
    let mut loaded = null_mut();
    // SAFETY: the objects are live until they are freed, once; texts have their lengths.
    unsafe {
        let options = mcandle_model_options_new();
        mcandle_model_options_set_progress(options, Some(on_progress), null_mut());
        let mut load = |error| mcandle_model_load(MODEL.as_ptr(), options, &raw mut loaded, error);
        assert_internal(&mut load, "progress");
        assert_internal(&mut load, "progress");
        mcandle_model_options_free(options);
        assert!(loaded.is_null());

        let parser = mcandle_tool_call_parser_new(false, false);
        let push = |error| {
            let (text, data) = (c"abc".as_ptr(), null_mut());
            mcandle_tool_call_parser_push(parser, text, 3, Some(on_piece), data, error)
        };
        assert_internal(push, "a piece");
        assert_internal(push, "unusable since an internal error");
        mcandle_tool_call_parser_free(parser);
        mcandle_model_free(model);
    }
}

#[cfg(feature = "training")]
#[test]
fn reading_fails_and_a_trainer_is_given_up() {
    let model = c_model();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    std::fs::write(&path, "{\"text\": \"a b c\"}\n").unwrap();
    let path = CString::new(path.to_str().unwrap()).unwrap();
    let (mut rows, mut trainer, mut adapter) = (null_mut(), null_mut(), null_mut());
    let none = null_mut();
    // SAFETY: the objects are live until they are freed, once; the path ends with a NUL.
    unsafe {
        let read = |error| {
            let (data, options) = (null_mut(), null());
            mcandle_dataset_from_callback(
                Some(next_row),
                data,
                model,
                options,
                &raw mut rows,
                error,
            )
        };
        assert_internal(read, "a row");
        assert!(rows.is_null());
        mcandle_dataset_from_jsonl(path.as_ptr(), model, null(), &raw mut rows, none);
        mcandle_trainer_new(model, rows, null(), null(), &raw mut trainer, none);
        let train =
            |error| mcandle_trainer_train(trainer, Some(on_event), null_mut(), null_mut(), error);
        assert_internal(train, "an event");
        assert_internal(
            |error| mcandle_trainer_adapter(trainer, &raw mut adapter, error),
            "unusable since an internal error",
        );
        assert!(adapter.is_null());
        mcandle_trainer_free(trainer);
        mcandle_dataset_free(rows);
        mcandle_model_free(model);
    }
}

#[test]
fn user_data_that_panics_as_it_is_freed() {
    let model = c_model();
    let (mut generator, none) = (null_mut(), null_mut());
    let (logits, free): (mcandle_logits_callback, mcandle_free_callback) =
        (Some(on_logits), Some(on_free));
    // SAFETY: the objects are live until they are freed, once.
    unsafe {
        mcandle_generator_new(model, &raw mut generator, none);
        let data = null_mut();
        let set =
            |error| mcandle_generator_set_logits_processor(generator, logits, data, free, error);
        assert_eq!(set(null_mut()), MCANDLE_OK);
        assert_internal(set, "freeing");
        mcandle_generator_free(generator);
        mcandle_model_free(model);
    }
}
