//! GGUF files, the format of llama.cpp and the programs built on it.

mod architecture;
mod file;
mod gguf_type;
mod pre_tokenizer;
mod sentence_piece;
mod tensors;
mod tokenizer;

pub use gguf_type::GgufType;

use super::atomic::replace_file;
use crate::error::{Error, Result};
use crate::models::Model;
use file::{Metadata, write_file};
use std::path::Path;

/// The version of the formats of blocks.
const QUANTIZATION_VERSION: u32 = 2;

impl Model {
    /// Saves the model as a GGUF file, which llama.cpp and the programs built on it run;
    /// [`merge`](Model::merge) an adapter before, and it is in the weights.
    ///
    /// The file has the weights in the format `kind`, the configuration, the tokenizer and the chat
    /// template. Rows of the embedding beyond the vocabulary have unused tokens `[PAD151936]` and so
    /// on. Weights that the model keeps quantised are made dense before, one by one. Memory is needed
    /// for one tensor at a time.
    ///
    /// The file appears whole or not at all; where it exists, it is replaced.
    ///
    /// # What llama.cpp does otherwise
    ///
    /// Of a tokenizer it leaves out the NFC normalisation that Qwen's has, so text that is not in
    /// that form has other tokens. With a tokenizer that has byte fallback it puts a space before every
    /// text, where newer ones of Hugging Face's leave it out if the text begins with one. Sliding
    /// windows are written, but for these architectures it looks at all tokens: texts that are longer
    /// than the window give other results.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] where the model has no tokenizer. [`Error::Unsupported`] for what llama.cpp
    /// has no counterpart of: a tokenizer that is not byte-level BPE with a pre-tokenizer that it
    /// knows, or BPE with byte fallback as of Llama 2; a sliding window on some layers only; a rope
    /// scaling that it does not know for the architecture. An error that names the file where it cannot
    /// be written, and [`Error::Backend`] when the device fails.
    ///
    /// # Example
    ///
    /// ```
    /// use metal_candle::ModelLoader;
    /// use metal_candle::checkpoint::GgufType;
    ///
    /// let model = ModelLoader::new().load("assets/tiny-coder")?;
    /// # let folder = std::env::temp_dir().join(format!("gguf-{}", std::process::id()));
    /// model.save_gguf(folder.join("tiny-coder-Q8_0.gguf"), GgufType::Q8_0)?;
    /// # std::fs::remove_dir_all(folder).ok();
    /// # Ok::<(), metal_candle::Error>(())
    /// ```
    pub fn save_gguf(&self, path: impl AsRef<Path>, kind: GgufType) -> Result<()> {
        let path = path.as_ref();
        if path.is_dir() {
            let reason = "is a directory; expected the path of a file, such as `model.gguf`";
            return Err(Error::format(path, reason));
        }
        // First, since what is refused should not take the time to write the weights.
        let mut metadata = general(self, kind);
        metadata.extend(architecture::metadata(self)?);
        metadata.extend(tokenizer::metadata(self)?);
        let tensors = tensors::tensors(self, kind);
        replace_file(path, |staged| write_file(staged, &metadata, &tensors))
    }
}

/// What the file says about itself.
fn general(model: &Model, kind: GgufType) -> Metadata {
    let path = model.path();
    // The name of a directory has no extension, whatever dots are in it.
    let name = if path.is_dir() {
        path.file_name()
    } else {
        path.file_stem()
    };
    let name = name.unwrap_or_default();
    let mut metadata = Metadata::new();
    let mut set = |key: &str, value| metadata.push((format!("general.{key}"), value));
    set("architecture", architecture::name(model.config()).into());
    set("type", "model".into());
    set("name", name.to_string_lossy().as_ref().into());
    set("file_type", file::Value::U32(kind.file_type()));
    set(
        "quantization_version",
        file::Value::U32(QUANTIZATION_VERSION),
    );
    metadata
}

/// What a GGUF file cannot say of a model.
fn unsupported(model: &Model, what: &'static str, found: &str, supported: &str) -> Error {
    Error::Unsupported {
        path: model.path().to_owned(),
        what,
        found: found.to_owned(),
        supported: supported.to_owned(),
    }
}

#[cfg(test)]
mod tests;
