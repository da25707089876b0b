//! What a model has read: tokens, and their keys and values.

use crate::backend::device;
use crate::backend::ops::most_likely::MostLikely;
use crate::checkpoint::{load_session, save_session};
use crate::error::Result;
use crate::models::{AdapterMix, KvCache, KvCacheType, Model, decoder::Row};
use candle_core::{DType, Tensor};
use std::path::Path;

/// What may come next.
#[derive(Debug)]
pub(super) enum Next {
    /// A logit for each token.
    Logits(Vec<f32>),
    MostLikely(MostLikely),
}

/// A model, perhaps adapters, and the tokens that they have read.
#[derive(Debug)]
pub(super) struct Context {
    model: Model,
    adapters: Option<AdapterMix>,
    /// Whether these were set, and are not those that are active on the model.
    has_own_adapters: bool,
    cache: KvCache,
    /// Those whose keys and values the cache holds.
    tokens: Vec<u32>,
    /// The logits after the first so many tokens: those of the last prompt.
    kept: Option<(usize, Vec<f32>)>,
}

impl Context {
    pub fn new(model: &Model) -> Self {
        Self::with_cache_type(model, KvCacheType::Full)
    }

    pub fn with_cache_type(model: &Model, cache_type: KvCacheType) -> Self {
        Self {
            cache: model.decoder().new_cache_of(cache_type),
            model: model.clone(),
            adapters: model.adapters().active(),
            has_own_adapters: false,
            tokens: vec![],
            kept: None,
        }
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    pub fn cache_type(&self) -> KvCacheType {
        self.cache.cache_type()
    }

    /// Uses other adapters, and forgets what was read with the last ones. None are those that are
    /// active on the model, from now on.
    pub fn set_adapters(&mut self, adapters: Option<AdapterMix>) -> Result<()> {
        if let Some(adapters) = &adapters {
            adapters.check(self.model.config())?;
        }
        self.has_own_adapters = adapters.is_some();
        self.adapters = adapters.or_else(|| self.model.adapters().active());
        self.truncate(0);
        Ok(())
    }

    /// Takes up the adapters that are active on the model now, unless others were set, and forgets what
    /// was read with those before.
    pub fn follow_model(&mut self) {
        let adapters = self.current_adapters();
        let are_same = match (&self.adapters, &adapters) {
            (Some(old), Some(new)) => new.is(old),
            (old, new) => old.is_none() && new.is_none(),
        };
        if !are_same {
            self.adapters = adapters;
            self.truncate(0);
        }
    }

    fn current_adapters(&self) -> Option<AdapterMix> {
        if self.has_own_adapters {
            self.adapters.clone()
        } else {
            self.model.adapters().active()
        }
    }

    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// A copy that goes its own way.
    pub fn fork(&self) -> Result<Self> {
        Ok(Self {
            model: self.model.clone(),
            adapters: self.adapters.clone(),
            has_own_adapters: self.has_own_adapters,
            cache: self.cache.fork()?,
            tokens: self.tokens.clone(),
            kept: self.kept.clone(),
        })
    }

    pub fn save(&self, path: &Path) -> Result<()> {
        let adapters = self.adapters.as_ref();
        save_session(path, &self.model, adapters, &self.tokens, &self.cache)
    }

    /// Takes over what was saved; where that fails, all is as before.
    pub fn load(&mut self, path: &Path) -> Result<()> {
        let adapters = self.current_adapters();
        let (mut tokens, cache) = load_session(path, &self.model, adapters.as_ref())?;
        tokens.truncate(cache.len());
        self.adapters = adapters;
        self.tokens = tokens;
        self.cache = cache;
        self.kept = None;
        Ok(())
    }

    /// Forgets the tokens from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.cache.truncate(len);
        self.tokens.truncate(len);
        if self.kept.as_ref().is_some_and(|(end, _)| *end > len) {
            self.kept = None;
        }
    }

    /// Keeps the logits after all tokens so far, for [`Context::recall`].
    pub fn keep(&mut self, logits: &[f32]) {
        self.kept = Some((self.tokens.len(), logits.to_vec()));
    }

    /// The logits after `tokens`, if those are the ones that were kept; what was read after them is
    /// forgotten.
    ///
    /// The same prompt so gives the same numbers to the last bit, which reading its last token anew
    /// would not.
    pub fn recall(&mut self, tokens: &[u32]) -> Option<Vec<f32>> {
        let (end, logits) = self.kept.as_ref()?;
        if *end != tokens.len() || self.tokens.get(..*end) != Some(tokens) {
            return None;
        }
        let logits = logits.clone();
        self.truncate(tokens.len());
        Some(logits)
    }

    pub fn reserve(&mut self, tokens: usize) {
        self.cache.reserve(tokens);
    }

    /// Forgets what is not a prefix of `tokens`, and gives the length of what is left. The last token
    /// is never left, so that there are logits to compute.
    pub fn reuse(&mut self, tokens: &[u32]) -> usize {
        let known = self.tokens.iter().zip(tokens);
        let common = known.take_while(|(held, wanted)| held == wanted).count();
        let common = common.min(tokens.len().saturating_sub(1));
        self.truncate(common);
        common
    }

    /// Where the context is full, drops the older half of it but for the first `keep` tokens:
    /// `pending`, the tokens to be read next, then starts with those of the rest that must be read
    /// anew.
    pub fn make_room(&mut self, pending: &mut Vec<u32>, limit: usize, keep: usize) {
        if self.tokens.len() < limit {
            return;
        }
        let tokens = [&self.tokens[..], &pending[..]].concat();
        *pending = shifted(&tokens, limit, keep);
        let kept = self.reuse(pending);
        pending.drain(..kept);
    }

    /// The logits after `tokens`, of which at most `chunk` are read at once and none that are known.
    pub fn logits_after(&mut self, tokens: &[u32], chunk: usize) -> Result<Vec<f32>> {
        let known = self.reuse(tokens);
        let mut pending = &tokens[known..];
        while pending.len() > chunk {
            let (part, rest) = pending.split_at(chunk);
            self.feed(part)?;
            pending = rest;
        }
        let logits = self.logits(pending, 1)?;
        Ok(logits.into_iter().next().unwrap_or_default())
    }

    /// Reads `tokens`.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<()> {
        self.logits(tokens, 0).map(|_| ())
    }

    /// Reads `tokens`, and gives the logits after each of the last `last` of them.
    pub fn logits(&mut self, tokens: &[u32], last: usize) -> Result<Vec<Vec<f32>>> {
        let model = self.model.clone();
        Self::logits_of(&model, &mut [(self, tokens, last)])
    }

    /// Reads `tokens`, and gives the hidden state after the final norm of each.
    pub fn hidden(&mut self, tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
        let decoder = self.model.decoder();
        let adapter = self.adapters.as_ref();
        let cache = &mut self.cache;
        let result = device::completed(decoder.device(), || {
            let hidden = decoder.forward_rows(&mut [Row {
                tokens,
                cache,
                adapter,
            }])?;
            Ok(decoder.normed(&hidden)?.to_dtype(DType::F32)?.to_vec2()?)
        });
        match &result {
            Ok(_) => self.tokens.extend_from_slice(tokens),
            Err(_) => self.truncate(0),
        }
        result
    }

    /// [`Context::logits`] for several contexts at once, in their order. They are forgotten where
    /// the device fails.
    pub fn logits_of(
        model: &Model,
        parts: &mut [(&mut Self, &[u32], usize)],
    ) -> Result<Vec<Vec<f32>>> {
        Self::read(model, parts, |logits| match logits {
            Some(logits) => Ok(logits.to_vec2()?),
            None => Ok(vec![]),
        })
    }

    /// Reads `tokens`, and gives what is likely after the last of them: the logits only where the device does not
    /// choose itself.
    pub fn most_likely(&mut self, tokens: &[u32]) -> Result<Next> {
        let model = self.model.clone();
        Self::read(&model, &mut [(self, tokens, 1)], |logits| {
            let Some(logits) = logits else {
                return Ok(Next::Logits(vec![]));
            };
            Ok(match MostLikely::of(&logits)? {
                Some(found) => Next::MostLikely(found),
                None => Next::Logits(logits.flatten_all()?.to_vec1()?),
            })
        })
    }

    /// Reads the tokens of several contexts, and gives what `take` makes of the logits after the last of them.
    fn read<T: Send>(
        model: &Model,
        parts: &mut [(&mut Self, &[u32], usize)],
        take: impl FnOnce(Option<Tensor>) -> Result<T> + Send,
    ) -> Result<T> {
        let result = device::completed(model.device(), || {
            let mut rows: Vec<Row> = parts
                .iter_mut()
                .map(|(context, tokens, _)| Row {
                    tokens,
                    cache: &mut context.cache,
                    adapter: context.adapters.as_ref(),
                })
                .collect();
            let hidden = model.decoder().forward_rows(&mut rows)?;
            let wanted = parts.iter().map(|(_, tokens, last)| (tokens.len(), *last));
            take(match select(&hidden, wanted)? {
                Some(hidden) => Some(model.decoder().logits_here(&hidden)?),
                None => None,
            })
        });
        for (context, tokens, _) in parts {
            if result.is_ok() {
                context.tokens.extend_from_slice(tokens);
            } else {
                context.truncate(0);
            }
        }
        result
    }
}

/// What is left of `tokens` when a full context shifts: the first `keep`, and the later half of the
/// rest.
pub(super) fn shifted(tokens: &[u32], limit: usize, keep: usize) -> Vec<u32> {
    let latest = (limit - keep) / 2;
    let start = keep.max(tokens.len().saturating_sub(latest));
    [&tokens[..keep.min(tokens.len())], &tokens[start..]].concat()
}

/// The hidden states whose logits are wanted, given the number of tokens of each part and how many
/// of the last of them count.
fn select(
    hidden: &Tensor,
    parts: impl Iterator<Item = (usize, usize)>,
) -> candle_core::Result<Option<Tensor>> {
    let mut ranges = vec![];
    let mut end = 0;
    for (tokens, last) in parts {
        end += tokens;
        if last > 0 {
            ranges.push((end - last, last));
        }
    }
    let ranges: Vec<_> = ranges
        .into_iter()
        .map(|(start, len)| hidden.narrow(0, start, len))
        .collect::<candle_core::Result<_>>()?;
    match &ranges[..] {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        several => Tensor::cat(several, 0).map(Some),
    }
}
