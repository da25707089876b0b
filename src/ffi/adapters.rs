//! The adapters that a model generates with, by name.

use super::adapter::mcandle_adapter;
use super::error::{MCANDLE_INTERNAL, mcandle_error, mcandle_status};
use super::handle::{self, Out, borrow};
use super::model::mcandle_model;
use super::panic::guard;
use super::string::mcandle_string;
use crate::models::{AdapterInfo, Adapters};
use std::ffi::c_char;

/// Loads an adapter for a model, under a name. It is not active, and its weight is 1.
///
/// All adapters that are active change what is generated with the model, together and each with its
/// weight, unless a generator or batch has an adapter of its own. Any thread may change them while
/// others generate: what is being generated goes on with those that were active when it began, and the
/// next generation has the new ones.
///
/// @param[in] model The model.
/// @param[in] name The name of the adapter, NUL-terminated UTF-8.
/// @param[in] path The directory of the adapter, as for mcandle_adapter_load().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, MCANDLE_INVALID_ARGUMENT where the name is empty or taken, or what
/// mcandle_adapter_load() gives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_load_adapter(
    model: *const mcandle_model,
    name: *const c_char,
    path: *const c_char,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live model and a NUL-terminated name, or NULL.
    unsafe {
        guard(error, || {
            let model = borrow(model, "model")?;
            let name = handle::string(name, "name")?;
            let path = handle::path(path, "path")?;
            model.inner.adapters().load(name, path)?;
            Ok(())
        })
    }
}

/// Adds an adapter to those of a model, as mcandle_model_load_adapter() does.
///
/// @param[in] model The model.
/// @param[in] name The name of the adapter, NUL-terminated UTF-8.
/// @param[in] adapter The adapter, such as one that was just trained; it need not outlive the call.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, MCANDLE_INVALID_ARGUMENT where the name is empty or taken or the adapter is for
/// another model, and those of bad arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_add_adapter(
    model: *const mcandle_model,
    name: *const c_char,
    adapter: *const mcandle_adapter,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live model and a NUL-terminated name, or NULL.
    unsafe {
        guard(error, || {
            let model = borrow(model, "model")?;
            let name = handle::string(name, "name")?;
            let adapter = borrow(adapter, "adapter")?;
            model.inner.adapters().insert(name, adapter.inner.clone())?;
            Ok(())
        })
    }
}

/// Changes what one of a model's adapters does.
///
/// # Safety
///
/// `model` is NULL or live, `name` NULL or NUL-terminated, `error` NULL or writable.
unsafe fn change(
    model: *const mcandle_model,
    name: *const c_char,
    error: *mut *mut mcandle_error,
    change: impl FnOnce(Adapters<'_>, &str) -> crate::Result<()>,
) -> mcandle_status {
    // SAFETY: as the caller promises.
    unsafe {
        guard(error, || {
            let model = borrow(model, "model")?;
            let name = handle::string(name, "name")?;
            change(model.inner.adapters(), name)?;
            Ok(())
        })
    }
}

/// Removes an adapter from those of a model. What is being generated with it goes on.
///
/// @param[in] model The model.
/// @param[in] name The name of the adapter, NUL-terminated UTF-8.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, MCANDLE_INVALID_ARGUMENT where no adapter has this name, and those of bad
/// arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_unload_adapter(
    model: *const mcandle_model,
    name: *const c_char,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live model and a NUL-terminated name, or NULL.
    unsafe { change(model, name, error, |adapters, name| adapters.unload(name)) }
}

/// Makes an adapter active, beside those that are.
///
/// @param[in] model The model.
/// @param[in] name The name of the adapter, NUL-terminated UTF-8.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, MCANDLE_INVALID_ARGUMENT where no adapter has this name, MCANDLE_BACKEND, and
/// those of bad arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_activate_adapter(
    model: *const mcandle_model,
    name: *const c_char,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live model and a NUL-terminated name, or NULL.
    unsafe { change(model, name, error, |adapters, name| adapters.activate(name)) }
}

/// Makes an adapter inactive. It stays loaded, with its weight.
///
/// @param[in] model The model.
/// @param[in] name The name of the adapter, NUL-terminated UTF-8.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, MCANDLE_INVALID_ARGUMENT where no adapter has this name, MCANDLE_BACKEND, and
/// those of bad arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_deactivate_adapter(
    model: *const mcandle_model,
    name: *const c_char,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live model and a NUL-terminated name, or NULL.
    unsafe {
        change(model, name, error, |adapters, name| {
            adapters.deactivate(name)
        })
    }
}

/// Makes these adapters active and all others inactive, in one step: no generation begins in between.
///
/// @param[in] model The model.
/// @param[in] names Their names, NUL-terminated UTF-8 each; NULL is allowed where there are none.
/// @param[in] count The number of names.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, MCANDLE_INVALID_ARGUMENT where no adapter has one of these names,
/// MCANDLE_BACKEND, and those of bad arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_set_active_adapters(
    model: *const mcandle_model,
    names: *const *const c_char,
    count: usize,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live model and `count` NUL-terminated names, or NULL.
    unsafe {
        guard(error, || {
            let model = borrow(model, "model")?;
            let names = handle::items(names, count, "names")?.iter();
            let names = names.map(|name| handle::string(*name, "names"));
            let names = names.collect::<handle::Result<Vec<_>>>()?;
            model.inner.adapters().set_active(&names)?;
            Ok(())
        })
    }
}

/// Sets how much of an adapter acts where it is active.
///
/// @param[in] model The model.
/// @param[in] name The name of the adapter, NUL-terminated UTF-8.
/// @param[in] weight 1 for the adapter as it is, 0 for none of it, below 0 for its opposite.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, MCANDLE_INVALID_ARGUMENT where no adapter has this name or the weight is not
/// finite, MCANDLE_BACKEND, and those of bad arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_set_adapter_weight(
    model: *const mcandle_model,
    name: *const c_char,
    weight: f64,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live model and a NUL-terminated name, or NULL.
    unsafe {
        guard(error, || {
            let model = borrow(model, "model")?;
            let name = handle::string(name, "name")?;
            model.inner.adapters().set_weight(name, weight)?;
            Ok(())
        })
    }
}

/// Gives one of the adapters of a model.
///
/// @param[in] model The model.
/// @param[in] name The name of the adapter, NUL-terminated UTF-8.
/// @param[out] adapter Receives the adapter on success, to be freed with mcandle_adapter_free(); it
/// may outlive its place among those of the model.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, MCANDLE_INVALID_ARGUMENT where no adapter has this name, and those of bad
/// arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_get_adapter(
    model: *const mcandle_model,
    name: *const c_char,
    adapter: *mut *mut mcandle_adapter,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live model, a NUL-terminated name and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let model = borrow(model, "model")?;
            let name = handle::string(name, "name")?;
            let out = Out::new(adapter, "adapter")?;
            out.give(mcandle_adapter {
                inner: model.inner.adapters().get(name)?,
            });
            Ok(())
        })
    }
}

/// The adapters of a model as they were when they were listed, in the order of their names.
#[derive(Debug)]
pub struct mcandle_adapter_list {
    infos: Vec<(mcandle_string, AdapterInfo)>,
    json: mcandle_string,
}

impl mcandle_adapter_list {
    fn new(infos: Vec<AdapterInfo>) -> handle::Result<Self> {
        let json = serde_json::to_string(&infos)
            .map_err(|error| mcandle_error::new(MCANDLE_INTERNAL, error.to_string()))?;
        let named = |info: AdapterInfo| (mcandle_string::new(&info.name), info);
        Ok(Self {
            json: mcandle_string::new(&json),
            infos: infos.into_iter().map(named).collect(),
        })
    }

    /// # Safety
    ///
    /// `list` is NULL or live for `'a`.
    unsafe fn at<'a>(list: *const Self, index: usize) -> Option<&'a (mcandle_string, AdapterInfo)> {
        // SAFETY: as the caller promises.
        unsafe { list.as_ref() }?.infos.get(index)
    }
}

/// Lists the adapters of a model.
///
/// @param[in] model The model.
/// @param[out] list Receives the list on success, to be freed with mcandle_adapter_list_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_list_adapters(
    model: *const mcandle_model,
    list: *mut *mut mcandle_adapter_list,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live model and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let model = borrow(model, "model")?;
            let out = Out::new(list, "list")?;
            out.give(mcandle_adapter_list::new(model.inner.adapters().list())?);
            Ok(())
        })
    }
}

/// Gives a list as JSON: an array of objects with "name", "rank", "parameters", "use_dora", "active"
/// and "weight".
///
/// @param[in] list The list, or NULL.
/// @param[out] length Receives the length in bytes; may be NULL.
/// @return The JSON, with a NUL behind it, which lives as long as the list; empty for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_adapter_list_json(
    list: *const mcandle_adapter_list,
    length: *mut usize,
) -> *const c_char {
    // SAFETY: the caller passes NULL or a live list, and NULL or a writable length.
    unsafe { mcandle_string::give(list.as_ref().map(|list| &list.json), length) }
}

/// Gives the number of adapters in a list.
///
/// @param[in] list The list, or NULL.
/// @return The number; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_adapter_list_length(list: *const mcandle_adapter_list) -> usize {
    // SAFETY: the caller passes NULL or a live list.
    unsafe { list.as_ref() }.map_or(0, |list| list.infos.len())
}

/// Gives the name of an adapter in a list.
///
/// @param[in] list The list, or NULL.
/// @param[in] index The place of the adapter, below the length of the list.
/// @param[out] length Receives the length of the name in bytes; may be NULL.
/// @return The name, with a NUL behind it, which lives as long as the list; empty for NULL and places
/// out of range.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_adapter_list_name(
    list: *const mcandle_adapter_list,
    index: usize,
    length: *mut usize,
) -> *const c_char {
    // SAFETY: the caller passes NULL or a live list, and NULL or a writable length.
    unsafe {
        let name = mcandle_adapter_list::at(list, index).map(|(name, _)| name);
        mcandle_string::give(name, length)
    }
}

/// Gives the rank of an adapter in a list.
///
/// @param[in] list The list, or NULL.
/// @param[in] index The place of the adapter, below the length of the list.
/// @return The rank; 0 for NULL and places out of range.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_adapter_list_rank(
    list: *const mcandle_adapter_list,
    index: usize,
) -> usize {
    // SAFETY: the caller passes NULL or a live list.
    unsafe { mcandle_adapter_list::at(list, index) }.map_or(0, |(_, info)| info.rank)
}

/// Gives the number of parameters of an adapter in a list.
///
/// @param[in] list The list, or NULL.
/// @param[in] index The place of the adapter, below the length of the list.
/// @return The number; 0 for NULL and places out of range.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_adapter_list_parameter_count(
    list: *const mcandle_adapter_list,
    index: usize,
) -> u64 {
    // SAFETY: the caller passes NULL or a live list.
    unsafe { mcandle_adapter_list::at(list, index) }.map_or(0, |(_, info)| info.parameters as u64)
}

/// Tells whether an adapter in a list is DoRA.
///
/// @param[in] list The list, or NULL.
/// @param[in] index The place of the adapter, below the length of the list.
/// @return Whether it is; false for NULL and places out of range.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_adapter_list_use_dora(
    list: *const mcandle_adapter_list,
    index: usize,
) -> bool {
    // SAFETY: the caller passes NULL or a live list.
    unsafe { mcandle_adapter_list::at(list, index) }.is_some_and(|(_, info)| info.use_dora)
}

/// Tells whether an adapter in a list was active.
///
/// @param[in] list The list, or NULL.
/// @param[in] index The place of the adapter, below the length of the list.
/// @return Whether it was; false for NULL and places out of range.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_adapter_list_is_active(
    list: *const mcandle_adapter_list,
    index: usize,
) -> bool {
    // SAFETY: the caller passes NULL or a live list.
    unsafe { mcandle_adapter_list::at(list, index) }.is_some_and(|(_, info)| info.active)
}

/// Gives the weight of an adapter in a list.
///
/// @param[in] list The list, or NULL.
/// @param[in] index The place of the adapter, below the length of the list.
/// @return The weight; 0 for NULL and places out of range.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_adapter_list_weight(
    list: *const mcandle_adapter_list,
    index: usize,
) -> f64 {
    // SAFETY: the caller passes NULL or a live list.
    unsafe { mcandle_adapter_list::at(list, index) }.map_or(0.0, |(_, info)| info.weight)
}

/// Frees a list.
///
/// @param[in] list The list; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_adapter_list_free(list: *mut mcandle_adapter_list) {
    // SAFETY: the caller passes NULL or a list that it owns.
    unsafe { handle::free(list) }
}
