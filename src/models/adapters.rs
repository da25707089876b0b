//! The adapters that a model generates with, by name, switched while it does.

use super::{AdapterMix, LoRAAdapter, Model};
use crate::error::{Error, Result};
use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The adapters that are loaded for a model, shared by all clones of the model.
///
/// Those that are active change what is generated with the model, all together and each with its
/// weight, unless a generator has [adapters of its own](crate::Generator::set_adapter). The weights of
/// the model are not touched.
///
/// Any thread may change them while others generate. What is being generated goes on with the adapters
/// that were active when it began; the next generation has the new ones, and reads its prompt anew,
/// since what was read with others is of no use to it. Adapters that are not active change nothing and
/// cost only their memory.
///
/// # Example
///
/// ```
/// use metal_candle::{GenerateOptions, Generator, ModelLoader};
/// use std::ops::ControlFlow;
///
/// let model = ModelLoader::new().load("assets/tiny-coder")?;
/// model.adapters().load("style", "tests/fixtures/lora/nonzero_b")?;
/// model.adapters().load("names", "tests/fixtures/lora/small_rslora")?;
/// model.adapters().set_weight("names", 0.5)?;
/// model.adapters().set_active(&["style", "names"])?;
///
/// let options = GenerateOptions { max_tokens: 4, ..GenerateOptions::default() };
/// let mut generator = Generator::new(&model);
/// generator.generate("fn main() {", &options, |_| ControlFlow::Continue(()))?;
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Adapters<'a> {
    model: &'a Model,
    registry: &'a Registry,
}

/// An adapter that is loaded for a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct AdapterInfo {
    /// The name that it was given.
    pub name: String,
    /// Its rank.
    pub rank: usize,
    /// The number of its parameters.
    pub parameters: usize,
    /// Whether it is `DoRA`.
    pub use_dora: bool,
    /// Whether it changes what is generated.
    pub active: bool,
    /// How much of it acts where it is active: 1 for the adapter as it is.
    pub weight: f64,
}

/// What [`Adapters`] shows.
#[derive(Debug, Default)]
pub(super) struct Registry {
    /// Held by who changes it. Making a mix takes a while; the state is locked only to be read or
    /// replaced, so that nobody who generates waits.
    changing: Mutex<()>,
    state: RwLock<Arc<State>>,
}

#[derive(Debug, Default)]
struct State {
    entries: Entries,
    /// Of those that are active; none where none is.
    mix: Option<AdapterMix>,
}

type Entries = BTreeMap<String, Entry>;

#[derive(Debug, Clone)]
struct Entry {
    adapter: Arc<LoRAAdapter>,
    weight: f64,
    is_active: bool,
}

impl<'a> Adapters<'a> {
    pub(super) fn new(model: &'a Model, registry: &'a Registry) -> Self {
        Self { model, registry }
    }

    pub(crate) fn model(&self) -> &'a Model {
        self.model
    }

    /// Adds an adapter, such as one that was just trained. It is not active, and its weight is 1.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] where the name is empty or taken, or the adapter is for a model of
    /// another shape or on another device.
    pub fn insert(&self, name: &str, adapter: LoRAAdapter) -> Result<()> {
        adapter.check(self.model.config())?;
        if !adapter.weights().device().same_device(self.model.device()) {
            let expected = "an adapter on the device of the model";
            return Err(Error::option("adapter", "on another device", expected));
        }
        self.change(|entries| {
            check_new(entries, name)?;
            let entry = Entry {
                adapter: Arc::new(adapter),
                weight: 1.0,
                is_active: false,
            };
            entries.insert(name.to_owned(), entry);
            Ok(())
        })
    }

    /// Checks that an adapter may have this name.
    pub(crate) fn check_new(&self, name: &str) -> Result<()> {
        check_new(&self.state().entries, name)
    }

    /// Removes an adapter. What is being generated with it goes on.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] that lists the names where there is no such adapter.
    pub fn unload(&self, name: &str) -> Result<()> {
        self.change(|entries| {
            find(entries, name)?;
            entries.remove(name);
            Ok(())
        })
    }

    /// Makes an adapter active, beside those that are.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] that lists the names where there is no such adapter,
    /// [`Error::Backend`] where memory for the new mix is lacking. All then is as before.
    pub fn activate(&self, name: &str) -> Result<()> {
        self.change(|entries| {
            find(entries, name)?.is_active = true;
            Ok(())
        })
    }

    /// Makes an adapter inactive. It stays loaded, with its weight.
    ///
    /// # Errors
    ///
    /// As [`Adapters::activate`].
    pub fn deactivate(&self, name: &str) -> Result<()> {
        self.change(|entries| {
            find(entries, name)?.is_active = false;
            Ok(())
        })
    }

    /// Makes these adapters active and all others inactive, in one step: no generation begins in
    /// between.
    ///
    /// # Errors
    ///
    /// As [`Adapters::activate`].
    pub fn set_active(&self, names: &[&str]) -> Result<()> {
        self.change(|entries| {
            for entry in entries.values_mut() {
                entry.is_active = false;
            }
            for name in names {
                find(entries, name)?.is_active = true;
            }
            Ok(())
        })
    }

    /// Sets how much of an adapter acts: 1 for the adapter as it is, 0 for none of it, below 0 for its
    /// opposite.
    ///
    /// # Errors
    ///
    /// As [`Adapters::activate`]; [`Error::InvalidOption`] for a weight that is not finite.
    pub fn set_weight(&self, name: &str, weight: f64) -> Result<()> {
        if !weight.is_finite() {
            return Err(Error::option("weight", weight, "a finite number"));
        }
        self.change(|entries| {
            find(entries, name)?.weight = weight;
            Ok(())
        })
    }

    /// An adapter by its name.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] that lists the names where there is no such adapter.
    pub fn get(&self, name: &str) -> Result<LoRAAdapter> {
        let state = self.state();
        match state.entries.get(name) {
            Some(entry) => Ok((*entry.adapter).clone()),
            None => Err(unknown(&state.entries, name)),
        }
    }

    /// All adapters, in the order of their names.
    #[must_use]
    pub fn list(&self) -> Vec<AdapterInfo> {
        let info = |(name, entry): (&String, &Entry)| AdapterInfo {
            name: name.clone(),
            rank: entry.adapter.config().rank,
            parameters: entry.adapter.parameter_count(),
            use_dora: entry.adapter.config().use_dora,
            active: entry.is_active,
            weight: entry.weight,
        };
        self.state().entries.iter().map(info).collect()
    }

    /// The active adapters with their weights, in the order of their names; none where none is active.
    #[must_use]
    pub fn active(&self) -> Option<AdapterMix> {
        self.state().mix.clone()
    }

    fn state(&self) -> Arc<State> {
        Arc::clone(&self.registry.state.read())
    }

    /// Changes a copy, and puts it in place where all went well.
    fn change(&self, change: impl FnOnce(&mut Entries) -> Result<()>) -> Result<()> {
        let _turn = self.registry.changing.lock();
        let old = self.state();
        let mut entries = old.entries.clone();
        change(&mut entries)?;
        // Where the same act as before, what generators have read stays of use.
        let mix = if acts_as(&entries, &old.entries) {
            old.mix.clone()
        } else {
            mix_of(&entries)?
        };
        let active: Vec<_> = active_names(&entries).collect();
        tracing::debug!(?active, loaded = entries.len(), "the adapters of a model");
        *self.registry.state.write() = Arc::new(State { entries, mix });
        Ok(())
    }
}

fn active(entries: &Entries) -> impl Iterator<Item = &Entry> {
    entries.values().filter(|entry| entry.is_active)
}

fn active_names(entries: &Entries) -> impl Iterator<Item = &str> {
    let active = entries.iter().filter(|(_, entry)| entry.is_active);
    active.map(|(name, _)| name.as_str())
}

fn acts_as(entries: &Entries, others: &Entries) -> bool {
    let identity = |entry: &Entry| (Arc::as_ptr(&entry.adapter), entry.weight.to_bits());
    active(entries)
        .map(identity)
        .eq(active(others).map(identity))
}

fn mix_of(entries: &Entries) -> Result<Option<AdapterMix>> {
    let part = |entry: &Entry| ((*entry.adapter).clone(), entry.weight);
    let parts: Vec<_> = active(entries).map(part).collect();
    let mix = (!parts.is_empty()).then(|| AdapterMix::new(parts));
    mix.transpose()
}

fn check_new(entries: &Entries, name: &str) -> Result<()> {
    let found = match name {
        "" => "empty".to_owned(),
        name if entries.contains_key(name) => format!("`{name}`, which is loaded already"),
        _ => return Ok(()),
    };
    Err(Error::option(
        "name",
        found,
        "a name that no other adapter has",
    ))
}

fn find<'e>(entries: &'e mut Entries, name: &str) -> Result<&'e mut Entry> {
    // Made before the mutable borrow; it is short.
    let unknown = unknown(entries, name);
    entries.get_mut(name).ok_or(unknown)
}

fn unknown(entries: &Entries, name: &str) -> Error {
    let names: Vec<_> = entries.keys().map(|name| format!("`{name}`")).collect();
    let expected = match &names[..] {
        [] => "an adapter that is loaded; none is".to_owned(),
        names => format!("one of those that are loaded: {}", names.join(", ")),
    };
    Error::option("name", format!("`{name}`"), expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::testing::device_kind;
    use crate::backend::{DTypePolicy, DeviceKind};
    use crate::models::LoRAConfig;
    use crate::models::testing::model;

    fn small(name: &str) -> Model {
        model(name, device_kind(), DTypePolicy::F32)
    }

    fn adapter(model: &Model, seed: u64) -> LoRAAdapter {
        LoRAAdapter::new(LoRAConfig::default(), model, seed).unwrap()
    }

    /// The names of those that act, with their weights.
    fn acting(adapters: Adapters<'_>) -> Vec<(String, f64)> {
        let list = adapters.list().into_iter().filter(|info| info.active);
        let listed: Vec<_> = list.map(|info| (info.name, info.weight)).collect();
        let mixed = adapters.active().map_or(0, |mix| mix.parts().len());
        assert_eq!(mixed, listed.len());
        listed
    }

    #[test]
    fn clones_share_their_adapters_and_merged_models_do_not() {
        let model = small("qwen2_tied");
        let clone = model.clone();
        model.adapters().insert("a", adapter(&model, 1)).unwrap();
        clone.adapters().activate("a").unwrap();
        assert_eq!(acting(model.adapters()), [("a".to_owned(), 1.0)]);
        let merged = model.merge(&adapter(&model, 1)).unwrap();
        assert!(merged.adapters().list().is_empty() && merged.adapters().active().is_none());
    }

    #[test]
    fn those_that_are_active_act_with_their_weights() {
        let model = small("qwen2_tied");
        let adapters = model.adapters();
        for (seed, name) in ["b", "c", "a"].into_iter().enumerate() {
            adapters.insert(name, adapter(&model, seed as u64)).unwrap();
        }
        assert!(acting(adapters).is_empty());
        for name in ["c", "a", "a"] {
            adapters.activate(name).unwrap();
        }
        adapters.set_weight("a", -0.5).unwrap();
        assert_eq!(
            acting(adapters),
            [("a".to_owned(), -0.5), ("c".to_owned(), 1.0)]
        );
        let mix = adapters.active().unwrap();
        let parts: Vec<_> = mix
            .parts()
            .iter()
            .map(|(adapter, weight)| (adapter.fingerprint().unwrap(), *weight))
            .collect();
        let expected = [(2, -0.5), (1, 1.0)]
            .map(|(seed, weight)| (adapter(&model, seed).fingerprint().unwrap(), weight));
        assert_eq!(parts, expected);
        adapters.deactivate("a").unwrap();
        adapters.deactivate("c").unwrap();
        assert!(acting(adapters).is_empty());
        // The weight is kept.
        adapters.set_active(&["b", "a"]).unwrap();
        assert_eq!(
            acting(adapters),
            [("a".to_owned(), -0.5), ("b".to_owned(), 1.0)]
        );
        adapters.set_active(&["c"]).unwrap();
        adapters.unload("c").unwrap();
        assert!(acting(adapters).is_empty());
        assert_eq!(adapters.list().len(), 2);
        let info = &adapters.list()[0];
        assert_eq!(
            (info.rank, info.parameters),
            (8, adapter(&model, 0).parameter_count())
        );
    }

    #[test]
    fn a_mix_stays_itself_until_what_acts_changes() {
        let model = small("qwen2_tied");
        let adapters = model.adapters();
        adapters.insert("a", adapter(&model, 1)).unwrap();
        adapters.activate("a").unwrap();
        let mix = adapters.active().unwrap();
        let is_same = || adapters.active().unwrap().is(&mix);
        adapters.insert("b", adapter(&model, 2)).unwrap();
        adapters.set_weight("b", 0.5).unwrap();
        adapters.activate("a").unwrap();
        adapters.set_weight("a", 1.0).unwrap();
        adapters.set_active(&["a"]).unwrap();
        adapters.unload("b").unwrap();
        assert!(is_same());
        adapters.set_weight("a", 2.0).unwrap();
        assert!(!is_same());
        // Of the same name, but another.
        let mix = adapters.active().unwrap();
        adapters.unload("a").unwrap();
        adapters.insert("a", adapter(&model, 3)).unwrap();
        adapters.set_weight("a", 2.0).unwrap();
        adapters.activate("a").unwrap();
        assert!(!adapters.active().unwrap().is(&mix));
    }

    #[test]
    fn mistakes_are_named_and_change_nothing() {
        let model = small("qwen2_tied");
        let adapters = model.adapters();
        let check = |result: Result<()>, part: &str| {
            let message = result.unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        };
        check(
            adapters.activate("a"),
            "`name` is `a`; expected an adapter that is loaded; none is",
        );
        adapters.insert("b", adapter(&model, 1)).unwrap();
        adapters.insert("a", adapter(&model, 2)).unwrap();
        adapters.set_active(&["a"]).unwrap();
        let before = adapters.list();
        let unknown = "`name` is `c`; expected one of those that are loaded: `a`, `b`";
        check(adapters.activate("c"), unknown);
        check(adapters.deactivate("c"), unknown);
        check(adapters.set_active(&["b", "c"]), unknown);
        check(adapters.set_weight("c", 1.0), unknown);
        check(adapters.unload("c"), unknown);
        check(adapters.get("c").map(|_| ()), unknown);
        check(adapters.set_weight("a", f64::NAN), "`weight` is NaN");
        check(adapters.set_weight("a", f64::INFINITY), "`weight` is inf");
        check(adapters.insert("", adapter(&model, 3)), "`name` is empty");
        check(
            adapters.insert("a", adapter(&model, 3)),
            "`name` is `a`, which is loaded already",
        );
        let other = small("qwen2_sliding");
        check(adapters.insert("c", adapter(&other, 3)), "another shape");
        assert_eq!(adapters.list(), before);
        if device_kind() != DeviceKind::Cpu {
            let here =
                crate::models::testing::model("qwen2_tied", DeviceKind::Cpu, DTypePolicy::F32);
            check(adapters.insert("c", adapter(&here, 3)), "on another device");
        }
        let found = adapters.get("b").unwrap().fingerprint().unwrap();
        assert_eq!(found, adapter(&model, 1).fingerprint().unwrap());
    }
}
