//! What the compiler holds of the promises in the header: objects may move between threads, and
//! functions that take `const T *` may run at the same time.
//!
//! And what it refuses to those who use this module from Rust. Every refusal is beside a twin that
//! differs in the mistake only, and compiles.
//!
//! An object is made by the library only:
//!
//! ```
//! let options = metal_candle::ffi::mcandle_generate_options_new();
//! # // SAFETY: it was made above, and is freed once.
//! # unsafe { metal_candle::ffi::mcandle_generate_options_free(options) }
//! ```
//! ```compile_fail,E0451
//! let options = metal_candle::ffi::mcandle_tokens { ids: Vec::new() };
//! ```
//!
//! What takes a pointer is unsafe:
//!
//! ```
//! // SAFETY: NULL is allowed.
//! unsafe { metal_candle::ffi::mcandle_model_free(std::ptr::null_mut()) }
//! ```
//! ```compile_fail,E0133
//! metal_candle::ffi::mcandle_model_free(std::ptr::null_mut())
//! ```
//!
//! A pointer does not move to another thread by itself; a promise that it may is the caller's.
//!
//! ```
//! let options = metal_candle::ffi::mcandle_generate_options_new() as usize;
//! std::thread::spawn(move || assert_ne!(options, 0)).join().unwrap();
//! ```
//! ```compile_fail,E0277
//! let options = metal_candle::ffi::mcandle_generate_options_new();
//! std::thread::spawn(move || assert!(!options.is_null())).join().unwrap();
//! ```
//!
//! Beside it, the Rust API needs no answer MCANDLE_BUSY: that a generator is used from its own
//! callback does not compile.
//!
//! ```no_run
//! # use metal_candle::{GenerateOptions, Generator, ModelLoader};
//! # use std::ops::ControlFlow;
//! # let model = ModelLoader::new().load("assets/tiny-coder")?;
//! # let (options, mut other) = (GenerateOptions::default(), Generator::new(&model));
//! let mut generator = Generator::new(&model);
//! generator.generate("a", &options, |_| {
//!     other.truncate(0);
//!     ControlFlow::Continue(())
//! })?;
//! # Ok::<(), metal_candle::Error>(())
//! ```
//! ```compile_fail,E0499
//! # use metal_candle::{GenerateOptions, Generator, ModelLoader};
//! # use std::ops::ControlFlow;
//! # let model = ModelLoader::new().load("assets/tiny-coder")?;
//! # let (options, mut other) = (GenerateOptions::default(), Generator::new(&model));
//! let mut generator = Generator::new(&model);
//! generator.generate("a", &options, |_| {
//!     generator.truncate(0);
//!     ControlFlow::Continue(())
//! })?;
//! # Ok::<(), metal_candle::Error>(())
//! ```

use crate::ffi;

const fn any_thread<T: Send + Sync>() {}

/// Every type that the header declares.
const _: () = {
    any_thread::<ffi::mcandle_adapter>();
    any_thread::<ffi::mcandle_adapter_list>();
    any_thread::<ffi::mcandle_batch>();
    any_thread::<ffi::mcandle_batch_results>();
    any_thread::<ffi::mcandle_chunk>();
    any_thread::<ffi::mcandle_error>();
    any_thread::<ffi::mcandle_fim_context>();
    any_thread::<ffi::mcandle_floats>();
    any_thread::<ffi::mcandle_generate_options>();
    any_thread::<ffi::mcandle_generation>();
    any_thread::<ffi::mcandle_generator>();
    any_thread::<ffi::mcandle_memory_info>();
    any_thread::<ffi::mcandle_model>();
    any_thread::<ffi::mcandle_model_info>();
    any_thread::<ffi::mcandle_model_options>();
    any_thread::<ffi::mcandle_piece>();
    any_thread::<ffi::mcandle_string>();
    any_thread::<ffi::mcandle_tokenizer>();
    any_thread::<ffi::mcandle_tokens>();
    any_thread::<ffi::mcandle_tool_call_parser>();
};

#[cfg(feature = "training")]
mod training {
    //! That two threads train with one trainer, or that one is used after another thread took it, does
    //! not compile either.
    //!
    //! ```no_run
    //! # fn of(trainer: metal_candle::LoRATrainer) {
    //! let cancel = trainer.cancel_handle();
    //! std::thread::spawn(move || trainer.evaluate());
    //! cancel.cancel();
    //! # }
    //! ```
    //! ```compile_fail,E0382
    //! # fn of(trainer: metal_candle::LoRATrainer) {
    //! std::thread::spawn(move || trainer.evaluate());
    //! trainer.cancel_handle().cancel();
    //! # }
    //! ```

    use super::any_thread;
    use crate::ffi;

    const _: () = {
        any_thread::<ffi::mcandle_checkpoints>();
        any_thread::<ffi::mcandle_dataset>();
        any_thread::<ffi::mcandle_dataset_options>();
        any_thread::<ffi::mcandle_train_event>();
        any_thread::<ffi::mcandle_train_options>();
        any_thread::<ffi::mcandle_train_summary>();
        any_thread::<ffi::mcandle_trainer>();
    };
}

#[cfg(test)]
mod tests {
    /// So that no type is forgotten above.
    #[test]
    fn every_type_of_the_header_is_held() {
        let header = include_str!("../../include/metal_candle.h");
        let held = include_str!("thread_safety.rs");
        let types = header.lines().filter_map(|line| {
            let rest = line.strip_prefix("typedef struct ")?;
            rest.split(' ').next()
        });
        let mut count = 0;
        for name in types {
            count += 1;
            assert!(
                held.contains(&format!("any_thread::<ffi::{name}>()")),
                "{name}"
            );
        }
        assert!(count > 20, "only {count} types found");
    }
}
