//! The header alone, in every language that it is for.

use crate::HEADER;
use std::fs;
use std::io::ErrorKind;
use std::process::Command;

const C: &[&str] = &["-std=c99", "-std=c11", "-std=c17", "-std=c2x"];
const CXX: &[&str] = &["-std=c++11", "-std=c++14", "-std=c++17", "-std=c++20"];
/// With the header before and behind it.
const NOTHING: &str = "typedef int nothing;";

/// A compiler that is installed.
struct Compiler {
    command: String,
    language: &'static str,
    standards: &'static [&'static str],
    is_clang: bool,
}

impl Compiler {
    /// What it says of a program, where it refuses it.
    fn refuses(&self, standard: &str, program: &str) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("program");
        fs::write(&source, program).unwrap();
        let mut command = Command::new(&self.command);
        command.args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-Iinclude"]);
        command.args(["-c", "-o", "/dev/null", standard, "-x", self.language]);
        if self.is_clang {
            command.args(["-Wdocumentation", "-Wnullability-completeness", "-Wnonnull"]);
        }
        let output = command.arg(source).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (!output.status.success()).then_some(said)
    }
}

/// Those of `CC` and `CXX`, and clang, which alone knows about NULL.
fn compilers() -> Vec<Compiler> {
    let named = |variable: &str, default: &str| {
        std::env::var(variable).unwrap_or_else(|_| default.to_owned())
    };
    let candidates = [
        (named("CC", "cc"), "c", C),
        (named("CXX", "c++"), "c++", CXX),
        ("clang-19".to_owned(), "c", C),
        ("clang++-19".to_owned(), "c++", CXX),
        ("clang".to_owned(), "c", C),
        ("clang++".to_owned(), "c++", CXX),
    ];
    let mut compilers = Vec::new();
    for (command, language, standards) in candidates {
        match Command::new(&command).arg("--version").output() {
            Ok(output) => compilers.push(Compiler {
                is_clang: String::from_utf8_lossy(&output.stdout).contains("clang"),
                command,
                language,
                standards,
            }),
            Err(error) if error.kind() == ErrorKind::NotFound && command != "cc" => {
                eprintln!("NOT CHECKED with {command}, which is not installed");
            }
            Err(error) => panic!("{command}: {error}"),
        }
    }
    compilers
}

fn with_header(program: &str) -> String {
    format!("#include <metal_candle.h>\n{program}\n#include <metal_candle.h>\n")
}

/// In every language.
fn accepted(program: &str) {
    accepted_by(program, |_| true);
}

/// By every compiler of a kind.
fn accepted_by(program: &str, by: impl Fn(&Compiler) -> bool) {
    for compiler in compilers().into_iter().filter(by) {
        for standard in compiler.standards {
            let said = compiler.refuses(standard, program);
            assert!(
                said.is_none(),
                "{} {standard}: {}",
                compiler.command,
                said.unwrap()
            );
        }
    }
}

/// By every compiler of a kind, for a reason.
fn refused(program: &str, reasons: &[&str], by: impl Fn(&Compiler, &str) -> bool) {
    for compiler in compilers() {
        for standard in compiler.standards.iter().filter(|one| by(&compiler, one)) {
            let said = compiler.refuses(standard, program).unwrap_or_default();
            let is_reason = reasons.iter().any(|reason| said.contains(reason));
            assert!(is_reason, "{} {standard}: {said:?}", compiler.command);
        }
    }
}

#[test]
fn the_header_compiles_alone_and_twice() {
    let program = with_header(NOTHING);
    accepted(&program);
    accepted(&format!("#define MCANDLE_WITHOUT_TRAINING\n{program}"));
}

#[test]
fn the_example_of_the_main_page_compiles() {
    let header = fs::read_to_string(HEADER).unwrap();
    let (_, example) = header.split_once("@code{.c}\n").unwrap();
    let (example, _) = example.split_once(" * @endcode").unwrap();
    let lines = example.lines().map(|line| line.trim_start_matches(" *"));
    let example = lines.collect::<Vec<_>>().join("\n") + "\n";
    assert!(example.contains("mcandle_generator_generate("));
    accepted(&example);
}

#[test]
fn what_must_be_freed_must_be_used() {
    let program = with_header("void leak(void);\nvoid leak(void) { mcandle_train_options_new(); }");
    refused(&program, &["unused-result", "unused-value"], |_, _| true);
}

#[test]
fn null_is_refused_where_it_is_not_allowed() {
    let call = "void call(void);\nvoid call(void) { mcandle_model_load(NULL, NULL, NULL, NULL); }";
    refused(&with_header(call), &["-Wnonnull"], |compiler, _| {
        compiler.is_clang
    });
    accepted(&format!(
        "#define MCANDLE_NO_NULLABILITY\n{}",
        with_header(call)
    ));
    let call = "void call(void);\nvoid call(void) { mcandle_model_free(NULL); }";
    accepted(&with_header(call));
}

#[test]
fn kinds_are_enumerations_to_swift_alone() {
    // Whether a case is missing can be said of an enumeration only.
    let switch = "int call(mcandle_device device);\nint call(mcandle_device device) {\n\
                  switch (device) { case MCANDLE_DEVICE_CPU: return 1; }\nreturn 0;\n}";
    accepted(&with_header(switch));
    // Swift's importer is clang, with one macro more.
    let for_swift = |program: &str| format!("#define __swift__ 60003L\n{}", with_header(program));
    let program = for_swift(NOTHING);
    accepted_by(&program, |compiler| compiler.is_clang);
    let without_training = format!("#define MCANDLE_WITHOUT_TRAINING\n{program}");
    accepted_by(&without_training, |compiler| compiler.is_clang);
    refused(&for_swift(switch), &["-Wswitch"], |compiler, _| {
        compiler.is_clang
    });
}

#[test]
fn a_type_of_another_layout_is_refused() {
    let program = with_header("MCANDLE_ASSERT_LAYOUT(mcandle_status, 8)");
    refused(
        &program,
        &["the layout of mcandle_status"],
        |_, standard| standard != "-std=c99",
    );
    accepted(&with_header("MCANDLE_ASSERT_LAYOUT(mcandle_status, 4)"));
}

#[test]
fn a_deprecated_function_is_refused() {
    let program = with_header(
        "MCANDLE_DEPRECATED(\"call another\") int old(void);\n\
         int call(void);\nint call(void) { return old(); }",
    );
    refused(&program, &["deprecated-declarations"], |_, _| true);
}

#[test]
fn the_number_of_the_version_is_made_of_all_its_parts() {
    let parts = [
        env!("CARGO_PKG_VERSION_MAJOR"),
        env!("CARGO_PKG_VERSION_MINOR"),
        env!("CARGO_PKG_VERSION_PATCH"),
    ];
    let [major, minor, patch] = parts.map(|part| part.parse::<u32>().unwrap());
    let number = major * 10_000 + minor * 100 + patch;
    let check =
        format!("#if MCANDLE_VERSION_NUMBER != {number}\n#error version\n#endif\n{NOTHING}");
    let said = compilers()[0].refuses("-std=c99", &with_header(&check));
    assert!(said.is_none(), "{}", said.unwrap());
}
