//! C programs, compiled against the static library of this build.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

const LIBRARIES: &[&str] = if cfg!(target_os = "macos") {
    &[
        "-framework",
        "Metal",
        "-framework",
        "Foundation",
        "-framework",
        "CoreGraphics",
        "-framework",
        "Security",
        "-lobjc",
        "-liconv",
        "-lm",
    ]
} else {
    &["-lpthread", "-ldl", "-lm"]
};

pub struct Program {
    path: PathBuf,
    _folder: TempDir,
}

/// The C or C++ compiler.
pub fn compiler(variable: &str, default: &str) -> Command {
    let mut command = Command::new(std::env::var(variable).unwrap_or_else(|_| default.to_owned()));
    command.args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-Iinclude"]);
    command
}

/// Cargo builds the static library anew beside this test, and leaves an older one in the folder
/// above as it is. `MCANDLE_TEST_LIBRARY` names another one, such as one for a sanitizer.
fn static_library() -> PathBuf {
    let beside = || {
        std::env::current_exe()
            .unwrap()
            .with_file_name("libmetal_candle.a")
    };
    let path = std::env::var_os("MCANDLE_TEST_LIBRARY").map_or_else(beside, PathBuf::from);
    assert!(path.exists(), "{} is missing", path.display());
    path
}

impl Program {
    /// With the compiler in `MCANDLE_TEST_CC`, else that in `CC`, and the further flags in
    /// `MCANDLE_TEST_CFLAGS`.
    pub fn build(source: &str) -> Self {
        let flags = std::env::var("MCANDLE_TEST_CFLAGS").unwrap_or_default();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(Path::new(source).file_stem().unwrap());
        let chosen = std::env::var_os("MCANDLE_TEST_CC").is_some();
        let variable = if chosen { "MCANDLE_TEST_CC" } else { "CC" };
        let output = compiler(variable, "cc")
            .args(["-std=c99", "-g", source])
            .args(flags.split_whitespace())
            .arg(static_library())
            .args(LIBRARIES)
            .arg("-o")
            .arg(&path)
            .output()
            .unwrap();
        assert_success(source, &output);
        Self {
            path,
            _folder: folder,
        }
    }

    /// The program, or the checker in `MCANDLE_TEST_RUNNER` that runs it.
    pub fn command(&self) -> Command {
        let runner = std::env::var("MCANDLE_TEST_RUNNER").unwrap_or_default();
        let mut words = runner.split_whitespace();
        let Some(first) = words.next() else {
            return Command::new(&self.path);
        };
        let mut command = Command::new(first);
        command.args(words).arg(&self.path);
        command
    }

    /// Runs the program and gives what it prints; it must succeed.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> String {
        let output = self.command().args(arguments).output().unwrap();
        assert_success(&self.path.to_string_lossy(), &output);
        String::from_utf8(output.stdout).unwrap()
    }
}

pub fn assert_success(what: &str, output: &Output) {
    assert!(
        output.status.success(),
        "{what}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
