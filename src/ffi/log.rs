//! Logs. What the library tells `tracing` goes to a callback of the program.

use super::error::{MCANDLE_INVALID_ARGUMENT, MCANDLE_UNSUPPORTED, mcandle_error, mcandle_status};
use super::handle::Result;
use super::panic::guard;
use super::user_data::{UserData, mcandle_free_callback};
use once_cell::sync::OnceCell;
use parking_lot::RwLock;
use std::cell::Cell;
use std::ffi::{CString, c_char, c_void};
use std::fmt::{Debug, Write};
use std::sync::Arc;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Level, Metadata, Subscriber, dispatcher};

/// How much a message matters: one of the MCANDLE_LOG_ constants. A lower number matters more.
pub type mcandle_log_level = i32;

/// A defect of the library.
pub const MCANDLE_LOG_ERROR: mcandle_log_level = 1;
/// Something that is probably not what is meant.
pub const MCANDLE_LOG_WARN: mcandle_log_level = 2;
/// What happens seldom: a model was loaded, a training began.
pub const MCANDLE_LOG_INFO: mcandle_log_level = 3;
/// What helps to find out why something is as it is.
pub const MCANDLE_LOG_DEBUG: mcandle_log_level = 4;
/// What happens all the time.
pub const MCANDLE_LOG_TRACE: mcandle_log_level = 5;

/// Receives a message of the library for people, on the thread that does what it tells of; so
/// several threads may call at the same time.
///
/// It may call functions of the library, whose own messages are then left out.
///
/// @param[in] level One of the MCANDLE_LOG_ constants.
/// @param[in] target The part of the library, such as "metal_candle::models::loader";
/// NUL-terminated UTF-8 that lives only during the call.
/// @param[in] message The message, such as "loaded a model path=model device=cpu"; NUL-terminated
/// UTF-8 that lives only during the call. It never holds prompts, generated text or rows.
/// @param[in] user_data As it was given with the callback.
pub type mcandle_log_callback = Option<
    unsafe extern "C-unwind" fn(
        level: mcandle_log_level,
        target: *const c_char,
        message: *const c_char,
        user_data: *mut c_void,
    ),
>;

/// Lets a callback receive what the library has to tell, in the whole process. Without one the
/// library is silent, and that costs nothing.
///
/// It takes the place of the callback before. Any thread may call this at any time, also from the
/// callback; it does not wait for calls of the callback before that other threads are in.
///
/// The user data belongs to the library from this call on, also where the call fails. It is freed
/// once, when the callback was replaced and no call of it is running any more, on whichever thread
/// that is; at once where the call fails or the callback is NULL.
///
/// @param[in] callback The callback, or NULL for none.
/// @param[in] level The most that is told: MCANDLE_LOG_INFO tells of errors, warnings and
/// informations. Without use where the callback is NULL.
/// @param[in] user_data Given to the callback as it is; may be NULL.
/// @param[in] free_user_data Called once to free the user data; may be NULL.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_ARGUMENT where the level is none, MCANDLE_UNSUPPORTED
/// where the process has a subscriber of `tracing`, which receives the messages already. After a
/// failure the callback before is still there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_set_log_callback(
    callback: mcandle_log_callback,
    level: mcandle_log_level,
    user_data: *mut c_void,
    free_user_data: mcandle_free_callback,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a writable output or NULL, and callbacks that may be called with
    // `user_data` on any thread.
    unsafe {
        let user_data = UserData::new(user_data, free_user_data);
        guard(error, || {
            let sink = match callback {
                Some(callback) => {
                    let level = level_filter(level)?;
                    install()?;
                    Some(Arc::new(Sink {
                        callback,
                        level,
                        user_data,
                    }))
                }
                None => None,
            };
            // Dropped where nothing is locked, since it may call the program.
            let _before = std::mem::replace(&mut *SINK.write(), sink);
            tracing::callsite::rebuild_interest_cache();
            Ok(())
        })
    }
}

/// Where messages go.
struct Sink {
    callback:
        unsafe extern "C-unwind" fn(mcandle_log_level, *const c_char, *const c_char, *mut c_void),
    level: LevelFilter,
    user_data: UserData,
}

/// A call of a callback holds a reference, so that who is the last frees the user data.
static SINK: RwLock<Option<Arc<Sink>>> = RwLock::new(None);

fn sink() -> Option<Arc<Sink>> {
    SINK.read().clone()
}

fn level_filter(level: mcandle_log_level) -> Result<LevelFilter> {
    match level {
        MCANDLE_LOG_ERROR => Ok(LevelFilter::ERROR),
        MCANDLE_LOG_WARN => Ok(LevelFilter::WARN),
        MCANDLE_LOG_INFO => Ok(LevelFilter::INFO),
        MCANDLE_LOG_DEBUG => Ok(LevelFilter::DEBUG),
        MCANDLE_LOG_TRACE => Ok(LevelFilter::TRACE),
        other => Err(mcandle_error::new(
            MCANDLE_INVALID_ARGUMENT,
            format!("`level` is {other}; expected one of the MCANDLE_LOG_ constants"),
        )),
    }
}

fn level_of(level: Level) -> mcandle_log_level {
    match level {
        Level::ERROR => MCANDLE_LOG_ERROR,
        Level::WARN => MCANDLE_LOG_WARN,
        Level::INFO => MCANDLE_LOG_INFO,
        Level::DEBUG => MCANDLE_LOG_DEBUG,
        Level::TRACE => MCANDLE_LOG_TRACE,
    }
}

/// Makes [`Logs`] the subscriber of the process, which it then stays.
fn install() -> Result<()> {
    static INSTALLED: OnceCell<()> = OnceCell::new();
    INSTALLED.get_or_try_init(|| {
        dispatcher::set_global_default(Dispatch::new(Logs)).map_err(|_| {
            let message = "the process has a `tracing` subscriber, which receives the messages of \
                           this library; a log callback can only be set where there is none";
            mcandle_error::new(MCANDLE_UNSUPPORTED, message)
        })
    })?;
    Ok(())
}

thread_local! {
    /// Whether this thread is in the callback.
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

/// The time of a call, however it ends.
struct InCallback;

impl InCallback {
    fn enter() -> Option<Self> {
        (!IN_CALLBACK.replace(true)).then_some(Self)
    }
}

impl Drop for InCallback {
    fn drop(&mut self) {
        IN_CALLBACK.set(false);
    }
}

/// Gives the events of this library to the sink. Spans are not used here, nor are events of others.
struct Logs;

impl Subscriber for Logs {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let own = env!("CARGO_CRATE_NAME");
        let target = metadata.target().strip_prefix(own);
        metadata.is_event()
            && target.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
            && sink().is_some_and(|sink| *metadata.level() <= sink.level)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(sink().map_or(LevelFilter::OFF, |sink| sink.level))
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        // The callback may have been replaced since the event was found to be enabled.
        let Some(sink) = sink().filter(|sink| *metadata.level() <= sink.level) else {
            return;
        };
        let Some(_in_callback) = InCallback::enter() else {
            return;
        };
        let target = c_string(metadata.target());
        let message = c_string(&Message::of(event));
        // SAFETY: as promised when the callback was set; both texts outlive the call, and so does the
        // user data, which the sink holds.
        unsafe {
            (sink.callback)(
                level_of(*metadata.level()),
                target.as_ptr(),
                message.as_ptr(),
                sink.user_data.get(),
            );
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "\u{FFFD}")).unwrap_or_default()
}

/// An event in words: its message, and its fields as ` name=value`.
#[derive(Default)]
struct Message {
    words: String,
    fields: String,
}

impl Message {
    fn of(event: &Event<'_>) -> String {
        let mut this = Self::default();
        event.record(&mut this);
        this.words + &this.fields
    }
}

impl Visit for Message {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a text does not fail.
        let _ = match field.name() {
            "message" => write!(self.words, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::testing::in_own_process;
    use crate::ffi::MCANDLE_OK;
    use parking_lot::Mutex;
    use std::ffi::CStr;
    use std::ptr;
    use tracing::subscriber::NoSubscriber;

    #[derive(Default)]
    struct Seen {
        lines: Vec<String>,
        freed: usize,
    }

    unsafe extern "C-unwind" fn see(
        level: i32,
        target: *const c_char,
        message: *const c_char,
        user_data: *mut c_void,
    ) {
        // SAFETY: the texts end with a NUL, and the user data outlives the callback.
        let (target, message, seen) = unsafe {
            let text = |text| CStr::from_ptr(text).to_str().unwrap();
            (
                text(target),
                text(message),
                &*user_data.cast::<Mutex<Seen>>(),
            )
        };
        // Other tests log, too.
        if target.starts_with("metal_candle::log_test") {
            seen.lock()
                .lines
                .push(format!("{level} {target} {message}"));
            tracing::error!(target: "metal_candle::log_test", "from the callback");
        }
    }

    unsafe extern "C-unwind" fn count(user_data: *mut c_void) {
        // SAFETY: as above.
        unsafe { &*user_data.cast::<Mutex<Seen>>() }.lock().freed += 1;
    }

    fn set(callback: mcandle_log_callback, level: i32, seen: &Mutex<Seen>) -> mcandle_status {
        let user_data = ptr::from_ref(seen).cast_mut().cast();
        // SAFETY: the tests remove the callback before `seen` is dropped.
        unsafe {
            mcandle_set_log_callback(callback, level, user_data, Some(count), ptr::null_mut())
        }
    }

    // The callback is of the whole process, and what it is given would be in use by other tests.

    #[test]
    fn events_of_the_library_reach_the_callback_up_to_its_level() {
        let name = "events_of_the_library_reach_the_callback_up_to_its_level";
        if !in_own_process(&format!("ffi::log::tests::{name}")) {
            return;
        }
        let seen = Mutex::default();
        assert_eq!(set(Some(see), MCANDLE_LOG_INFO, &seen), MCANDLE_OK);
        let name = "a\0b";
        tracing::info!(target: "metal_candle::log_test", name, count = 2, path = ?"x", "two {}", "words");
        tracing::debug!(target: "metal_candle::log_test", "too much");
        tracing::error!(target: "metal_candle_and_more", "of somebody else");
        assert_eq!(set(Some(see), 6, &seen), MCANDLE_INVALID_ARGUMENT);
        assert_eq!(seen.lock().freed, 1, "what was refused");
        assert_eq!(set(Some(see), MCANDLE_LOG_TRACE, &seen), MCANDLE_OK);
        assert_eq!(seen.lock().freed, 2, "what was replaced");
        tracing::trace!(target: "metal_candle::log_test::part", "all");
        assert_eq!(set(None, 0, &seen), MCANDLE_OK);
        assert_eq!(LevelFilter::current(), LevelFilter::OFF);
        tracing::error!(target: "metal_candle::log_test", "nobody hears it");
        let seen = seen.into_inner();
        assert_eq!(seen.freed, 4);
        let expected = [
            "3 metal_candle::log_test two words name=a\u{FFFD}b count=2 path=\"x\"",
            "5 metal_candle::log_test::part all",
        ];
        assert_eq!(seen.lines, expected);
    }

    /// User data is freed when the last call is over, wherever it runs.
    #[test]
    fn a_callback_that_replaces_itself_is_freed_after_it() {
        unsafe extern "C-unwind" fn replace(
            _: i32,
            target: *const c_char,
            _: *const c_char,
            data: *mut c_void,
        ) {
            // SAFETY: as in `see`.
            unsafe {
                if CStr::from_ptr(target) == c"metal_candle::log_test" {
                    let seen = &*data.cast::<Mutex<Seen>>();
                    assert_eq!(set(None, 0, seen), MCANDLE_OK);
                    assert_eq!(seen.lock().freed, 1, "what came with NULL");
                }
            }
        }
        if !in_own_process("ffi::log::tests::a_callback_that_replaces_itself_is_freed_after_it") {
            return;
        }
        let seen = Mutex::default();
        assert_eq!(set(Some(replace), MCANDLE_LOG_ERROR, &seen), MCANDLE_OK);
        tracing::error!(target: "metal_candle::log_test", "once");
        tracing::error!(target: "metal_candle::log_test", "not again");
        assert_eq!(seen.into_inner().freed, 2);
    }

    /// In a process of its own, which has a subscriber already.
    #[test]
    fn a_subscriber_of_the_program_stays() {
        if !in_own_process("ffi::log::tests::a_subscriber_of_the_program_stays") {
            return;
        }
        dispatcher::set_global_default(Dispatch::new(NoSubscriber::new())).unwrap();
        let seen = Mutex::default();
        for _ in 0..2 {
            assert_eq!(set(Some(see), MCANDLE_LOG_INFO, &seen), MCANDLE_UNSUPPORTED);
        }
        assert_eq!(set(None, 0, &seen), MCANDLE_OK);
        assert_eq!(seen.into_inner().freed, 3);
    }
}
