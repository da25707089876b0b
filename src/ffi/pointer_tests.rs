//! Functions of the C API that need no model, called as a C program calls them. `tests/miri.sh` runs
//! them where every pointer is checked.

use super::*;
use std::ffi::{CStr, c_char, c_void};
use std::fmt::Write;
use std::ptr;

fn text(pointer: *const c_char) -> String {
    // SAFETY: functions give NUL-terminated texts that live as long as their objects.
    unsafe { CStr::from_ptr(pointer) }
        .to_string_lossy()
        .into_owned()
}

/// The text of an object, which is freed.
fn take(string: *mut mcandle_string) -> String {
    // SAFETY: a call gave the text; it is freed once.
    unsafe {
        let copy = text(mcandle_string_data(string));
        assert_eq!(copy.len(), mcandle_string_length(string));
        mcandle_string_free(string);
        copy
    }
}

#[test]
fn an_error_is_read_and_freed() {
    let mut error = ptr::null_mut();
    let mut model = ptr::null_mut();
    // SAFETY: NULL is allowed, outputs are writable, and the error is freed once.
    unsafe {
        let status = mcandle_model_load(ptr::null(), ptr::null(), &raw mut model, &raw mut error);
        assert_eq!(status, MCANDLE_NULL_POINTER);
        assert_eq!(mcandle_error_status(error), status);
        assert_eq!(text(mcandle_error_message(error)), "`path` is NULL");
        mcandle_error_free(error);
        let path = c"\xFF".as_ptr();
        let status = mcandle_model_load(path, ptr::null(), &raw mut model, ptr::null_mut());
        assert_eq!(text(mcandle_status_name(status)), "MCANDLE_INVALID_UTF8");
        assert!(model.is_null());
    }
}

#[test]
fn generate_options_are_set_and_written() {
    let options = mcandle_generate_options_new();
    let error = ptr::null_mut();
    // SAFETY: the options are live until they are freed, once; texts have the given lengths.
    unsafe {
        mcandle_generate_options_set_max_tokens(options, 7);
        mcandle_generate_options_set_seed(options, 8);
        mcandle_generate_options_set_logit_bias(options, 5, -1.0);
        mcandle_generate_options_add_stop_token_id(options, 9);
        let stop = "a\0b";
        let status =
            mcandle_generate_options_add_stop(options, stop.as_ptr().cast(), stop.len(), error);
        assert_eq!(status, MCANDLE_OK);
        let regex = "[ab]+";
        let status =
            mcandle_generate_options_set_regex(options, regex.as_ptr().cast(), regex.len(), error);
        assert_eq!(status, MCANDLE_OK);
        let mut json = ptr::null_mut();
        let status = mcandle_generate_options_to_json(options, &raw mut json, error);
        assert_eq!(status, MCANDLE_OK);
        mcandle_generate_options_free(options);
        let json = take(json);
        let mut read = ptr::null_mut();
        let status = mcandle_generate_options_from_json(
            json.as_ptr().cast(),
            json.len(),
            &raw mut read,
            error,
        );
        assert_eq!(status, MCANDLE_OK);
        let mut again = ptr::null_mut();
        mcandle_generate_options_to_json(read, &raw mut again, error);
        assert_eq!(take(again), json);
        mcandle_generate_options_clear_stop(read);
        mcandle_generate_options_clear_grammar(read);
        mcandle_generate_options_free(read);
    }
}

#[cfg(feature = "training")]
#[test]
fn train_and_data_options_keep_texts_of_their_own() {
    let error = ptr::null_mut();
    let mut json = ptr::null_mut();
    // SAFETY: the options are live until they are freed, once; texts are NUL-terminated.
    unsafe {
        let options = mcandle_train_options_new();
        {
            let pattern = c"q_.*".to_owned();
            mcandle_train_options_set_target_pattern(options, pattern.as_ptr());
            mcandle_train_options_set_output_dir(options, c"out".as_ptr());
            mcandle_train_options_set_output_dir(options, ptr::null());
        }
        mcandle_train_options_set_rank(options, 3);
        let status = mcandle_train_options_to_json(options, &raw mut json, error);
        assert_eq!(status, MCANDLE_OK);
        mcandle_train_options_free(options);
        assert!(take(json).contains("q_.*"));

        let options = mcandle_dataset_options_new();
        let field = c"prompt".to_owned();
        let key = c"question".to_owned();
        let status =
            mcandle_dataset_options_set_field(options, field.as_ptr(), key.as_ptr(), error);
        assert_eq!(status, MCANDLE_OK);
        drop((field, key));
        let mut json = ptr::null_mut();
        let status = mcandle_dataset_options_to_json(options, &raw mut json, error);
        assert_eq!(status, MCANDLE_OK);
        mcandle_dataset_options_free(options);
        assert!(take(json).contains("question"));
    }
}

unsafe extern "C-unwind" fn push_piece(piece: *const mcandle_piece, user_data: *mut c_void) {
    let mut length = 0;
    // SAFETY: the parser passes a live piece, and the test a text that only this uses.
    unsafe {
        let pieces = &mut *user_data.cast::<String>();
        let piece_text = text(mcandle_piece_text(piece, &raw mut length));
        assert_eq!(piece_text.len(), length);
        let name = text(mcandle_piece_name(piece, ptr::null_mut()));
        let kind = mcandle_piece_kind_of(piece);
        write!(pieces, "{kind}:{name}:{piece_text};").unwrap();
    }
}

#[test]
fn pieces_reach_the_callback() {
    let parser = mcandle_tool_call_parser_new(true, false);
    let mut pieces = String::new();
    let user_data = (&raw mut pieces).cast();
    // SAFETY: the parser is live until it is freed, once; the callback is for a `String`.
    unsafe {
        for part in [
            "<think>hm</think>a<tool_",
            "call>{\"name\": \"f\"}</tool_call>b",
        ] {
            let status = mcandle_tool_call_parser_push(
                parser,
                part.as_ptr().cast(),
                part.len(),
                Some(push_piece),
                user_data,
                ptr::null_mut(),
            );
            assert_eq!(status, MCANDLE_OK);
        }
        let end =
            mcandle_tool_call_parser_finish(parser, Some(push_piece), user_data, ptr::null_mut());
        assert_eq!(end, MCANDLE_OK);
        mcandle_tool_call_parser_free(parser);
    }
    assert_eq!(pieces, "1::hm;0::a;2:f:{};0::b;");
}

#[test]
fn owned_lists_are_read_and_freed() {
    let tokens = Box::into_raw(Box::new(mcandle_tokens { ids: vec![1, 2] }));
    let floats = Box::into_raw(Box::new(mcandle_floats { values: vec![0.5] }));
    let context = mcandle_fim_context_new();
    // SAFETY: the objects are live until they are freed, once; lengths are those of the lists.
    unsafe {
        let ids = mcandle_tokens_data(tokens);
        assert_eq!(*ids.add(mcandle_tokens_length(tokens) - 1), 2);
        mcandle_tokens_free(tokens);
        assert!((*mcandle_floats_data(floats) - 0.5).abs() < f32::EPSILON);
        assert_eq!(mcandle_floats_length(floats), 1);
        mcandle_floats_free(floats);
        let path = c"a.rs".to_owned();
        let (data, length) = (path.as_ptr(), path.count_bytes());
        let status = mcandle_fim_context_add_file(context, data, data, length, ptr::null_mut());
        assert_eq!(status, MCANDLE_OK);
        assert_eq!(
            mcandle_fim_context_set_path(context, ptr::null(), ptr::null_mut()),
            MCANDLE_OK
        );
        drop(path);
        mcandle_fim_context_free(context);
        mcandle_model_free(ptr::null_mut());
    }
}
