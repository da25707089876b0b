//! From Metal's language to a shared library, once for all processes and runs.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Longer sources instantiate so many kernels that each is compiled alone when it is asked for;
/// the kernels of shorter ones cost less together than two of them alone.
const WHOLE: usize = 40_000;

/// What is compiled at once, by a hash of the source, the compiler's own sources and the name of the
/// function where it is compiled alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Unit {
    hash: u64,
    function: Option<String>,
}

impl Unit {
    pub(crate) fn of(source: &str, function: &str) -> Self {
        let function = (source.len() > WHOLE).then(|| function.to_owned());
        let mut hasher = DefaultHasher::new();
        (compiler_hash(), source, &function).hash(&mut hasher);
        Self {
            hash: hasher.finish(),
            function,
        }
    }

    /// The path of the shared library, which is made unless it is there.
    pub(crate) fn compile(&self, source: &str) -> Result<PathBuf, String> {
        self.try_compile(source).map_err(|error| {
            format!(
                "compiling {}: {error}",
                self.function.as_deref().unwrap_or("a library")
            )
        })
    }

    fn try_compile(&self, source: &str) -> Result<PathBuf, String> {
        let cache = cache()?;
        let file = |extension: &str| cache.join(format!("{:016x}.{extension}", self.hash));
        let library = file("so");
        if library.exists() {
            return Ok(library);
        }
        // One process compiles; others that want the same wait here, and then find it.
        let lock = File::create(file("lock")).map_err(|error| error.to_string())?;
        lock.lock().map_err(|error| error.to_string())?;
        if library.exists() {
            return Ok(library);
        }
        let metal = file("metal");
        fs::write(&metal, source).map_err(|error| error.to_string())?;
        let mut command = Command::new("python3");
        command
            .arg(folder().join("compile.py"))
            .arg(&metal)
            .arg(&library);
        if let Some(function) = &self.function {
            command.args(["--function", function]);
        }
        let output = command
            .output()
            .map_err(|error| format!("python3: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(library)
    }
}

/// The compiler's folder.
fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../msl"))
}

fn cache() -> Result<PathBuf, String> {
    let cache = env::var_os("METAL_DEVICE_CACHE").ok_or("METAL_DEVICE_CACHE names no folder")?;
    let cache = PathBuf::from(cache);
    fs::create_dir_all(&cache).map_err(|error| format!("{}: {error}", cache.display()))?;
    Ok(cache)
}

/// A hash of everything in the compiler's folder: a change there compiles all kernels anew.
fn compiler_hash() -> u64 {
    static HASH: OnceLock<u64> = OnceLock::new();
    *HASH.get_or_init(|| {
        let mut hasher = DefaultHasher::new();
        env::var("METAL_DEVICE_OPT").ok().hash(&mut hasher);
        let clang = env::var("METAL_DEVICE_CLANG").unwrap_or_else(|_| "clang++-19".to_owned());
        let version = Command::new(clang).arg("--version").output();
        version
            .map(|output| output.stdout)
            .unwrap_or_default()
            .hash(&mut hasher);
        hash_folder(folder(), &mut hasher);
        hasher.finish()
    })
}

fn hash_folder(folder: &Path, hasher: &mut DefaultHasher) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            // Python keeps its own cache beside its sources.
            if !path.ends_with("__pycache__") {
                hash_folder(&path, hasher);
            }
        } else {
            path.hash(hasher);
            fs::read(&path).unwrap_or_default().hash(hasher);
        }
    }
}
