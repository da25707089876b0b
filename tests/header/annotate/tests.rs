//! From source to header.

use super::{finish, with_version};
use crate::sections::Sections;
use crate::{generate, parse};

const SOURCE: &str = r#"//! Things. They are few.

/// A thing.
pub struct mcandle_thing;

/// A kind: one of the MCANDLE_KIND_ constants.
pub type mcandle_kind = i32;

/// A number.
pub type mcandle_number = i32;

/// Good.
pub const MCANDLE_KIND_VERY_GOOD: mcandle_kind = 0;

/// Of 4.5 bits.
pub const MCANDLE_KIND_Q4_5: mcandle_kind = 7;

/// No kind.
pub const MCANDLE_MOST: i32 = 9;

/// Reads.
///
/// @param[in] place A place.
/// @param[out] text Receives a text.
/// @param[in] user_data As given.
pub type mcandle_reads = Option<
    unsafe extern "C" fn(place: *const u64, text: *mut *const c_char, user_data: *mut c_void),
>;

/// Finds.
///
/// @param[in] thing The thing.
/// @param[in] names Names, or NULL.
/// @param[in] read Reads; may be NULL.
/// @param[out] found Receives another, or NULL where there is none.
/// @param[out] count Receives a number; may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_thing_find(
    thing: *const mcandle_thing,
    names: *const *const c_char,
    read: mcandle_reads,
    found: *mut *mut mcandle_thing,
    count: *mut usize,
) {
}

/// Writes.
///
/// @param[in] text The text.
/// @param[in] text_length Its length.
#[deprecated(note = "call (another)")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_write(text: *const c_char, text_length: usize) {}

/// Names.
///
/// @param[in] kind A kind.
/// @param[in] number Which of its names.
/// @return A name; NULL for nothing.
#[unsafe(no_mangle)]
pub extern "C" fn mcandle_name(kind: mcandle_kind, number: mcandle_number) -> *const c_char {}

/// Makes.
///
/// @return A thing.
#[must_use]
#[unsafe(no_mangle)]
pub extern "C" fn mcandle_thing_new() -> *mut mcandle_thing {}
"#;

const CODE: &[&str] = &[
    "typedef struct mcandle_thing mcandle_thing;",
    "typedef void (*mcandle_reads)(",
    "    const uint64_t *MCANDLE_NONNULL place,",
    "    const char *MCANDLE_NULLABLE *MCANDLE_NONNULL text,",
    "    void *MCANDLE_NULLABLE user_data);",
    "MCANDLE_ASSERT_LAYOUT(mcandle_reads, sizeof(void *))",
    "__extension__ typedef enum MCANDLE_OPEN_ENUM mcandle_kind : int32_t {",
    "    MCANDLE_KIND_VERY_GOOD MCANDLE_SWIFT_NAME(\"veryGood\") = 0,",
    "    MCANDLE_KIND_Q4_5 MCANDLE_SWIFT_NAME(\"q4_5\") = 7,",
    "} mcandle_kind;",
    "typedef int32_t mcandle_kind;",
    "MCANDLE_ASSERT_LAYOUT(mcandle_kind, 4)",
    "typedef int32_t mcandle_number;",
    "MCANDLE_ASSERT_LAYOUT(mcandle_number, 4)",
    "void mcandle_thing_find(",
    "    const mcandle_thing *MCANDLE_NONNULL thing,",
    "    const char *MCANDLE_NONNULL const *MCANDLE_NULLABLE names,",
    "    mcandle_reads MCANDLE_NULLABLE read,",
    "    mcandle_thing *MCANDLE_NULLABLE *MCANDLE_NONNULL found,",
    "    size_t *MCANDLE_NULLABLE count);",
    "MCANDLE_DEPRECATED(\"call (another)\") void mcandle_write(",
    "    const char *MCANDLE_NULLABLE text,",
    "    size_t text_length);",
    "const char *MCANDLE_NULLABLE mcandle_name(mcandle_kind kind, mcandle_number number);",
    "MCANDLE_MUST_USE mcandle_thing *MCANDLE_NONNULL mcandle_thing_new(void);",
];

#[test]
fn pointers_say_whether_they_may_be_null_as_the_comments_do() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source.rs");
    std::fs::write(&source, SOURCE).unwrap();
    let header = generate(&source);
    let items = parse::items(&header);
    let sections = Sections::of(folder.path(), &items);
    let finished = finish(&header, &items, &sections, "1.2.3");
    let is_code = |line: &&str| {
        let others = ["/*", " *", "#", "extern"];
        !line.is_empty() && !others.iter().any(|other| line.starts_with(other))
    };
    let code = finished
        .lines()
        .skip_while(|line| *line != CODE[0])
        .take_while(|line| !line.starts_with("}  //"))
        .filter(is_code);
    assert_eq!(code.collect::<Vec<_>>(), CODE);
    let start = "\n/**\n * @defgroup source Things\n * @{\n */\n\n/**\n * Finds.\n";
    assert!(finished.contains(start), "{finished}");
    let end = "mcandle_thing_new(void);\n\n/** @} */\n\n#ifdef __cplusplus\n";
    assert!(finished.contains(end), "{finished}");
    assert!(
        finished
            .ends_with("#pragma clang diagnostic pop\n#endif\n\n#endif  /* METAL_CANDLE_H */\n")
    );
}

#[test]
fn the_version_is_written_in_parts() {
    let header = "@VERSION@ @MAJOR@ @MINOR@ @PATCH@";
    assert_eq!(with_version(header, "1.20.3"), "1.20.3 1 20 3");
    assert_eq!(with_version(header, "1.20.3-rc.1"), "1.20.3-rc.1 1 20 3");
}
