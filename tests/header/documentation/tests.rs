//! Each rule catches a header that breaks it, and nothing else in that header.

use super::faults;
use crate::parse;

/// The faults of a good header in which one text is replaced by another.
fn faults_with(good: &str, bad: &str) -> Vec<String> {
    let header = "\
/** Something of the library. */
typedef struct mcandle_thing mcandle_thing;

/** How it went. */
typedef int32_t mcandle_status;

/** It went well. */
#define MCANDLE_OK 0

/** What is said of two at once. @see MCANDLE_OK */
#define MCANDLE_BOTH 1

/**
 * Hears of numbers.
 *
 * @param[in,out] numbers The numbers, to be changed.
 * @param[in] user_data As it was given.
 * @return True to go on.
 */
typedef bool (*mcandle_hears_callback)(float *numbers, void *user_data);

/**
 * Receives a thing.
 *
 * @param[in] made The thing, to be freed with mcandle_thing_free(), or NULL.
 * @param[in] lent Another thing, which lives only during the call.
 */
typedef void (*mcandle_made)(mcandle_thing *made, const mcandle_thing *lent);

/**
 * Finds a thing, as mcandle_thing_name() names it.
 *
 * @param[in] name The name, NUL-terminated UTF-8.
 * @param[in,out] other Another thing.
 * @param[out] thing Receives the thing, to be freed with
 * mcandle_thing_free().
 * @return MCANDLE_OK, or MCANDLE_NULL_POINTER, MCANDLE_INVALID_UTF8.
 */
mcandle_status mcandle_thing_find(const char *name,
                              mcandle_thing *other,
                              mcandle_thing **thing);

/**
 * Gives the name of a thing.
 *
 * @param[in] thing The thing, or NULL.
 * @return The name, which lives as long as the thing.
 */
const char *mcandle_thing_name(const mcandle_thing *thing);

/**
 * Makes a thing.
 *
 * @return A thing, to be freed with mcandle_thing_free().
 */
MCANDLE_MUST_USE mcandle_thing *mcandle_thing_new(void);

/**
 * Frees a thing.
 *
 * @param[in] thing The thing, or NULL.
 */
void mcandle_thing_free(mcandle_thing *thing);

/** A pointer is NULL. */
#define MCANDLE_NULL_POINTER 2

/** A text is not UTF-8. */
#define MCANDLE_INVALID_UTF8 3

/** It is in use. */
#define MCANDLE_BUSY 4

/** Generates. */
typedef struct mcandle_generator mcandle_generator;

/**
 * Stops a generator.
 *
 * @param[in,out] generator The generator.
 * @return MCANDLE_OK, or MCANDLE_BUSY, and those of bad arguments.
 */
mcandle_status mcandle_generator_stop(mcandle_generator *generator);
";
    assert!(header.contains(good), "{good}");
    faults(&parse::items(&header.replacen(good, bad, 1)))
}

#[track_caller]
fn is_fault(good: &str, bad: &str, fault: &str) {
    let faults = faults_with(good, bad);
    assert!(
        matches!(&faults[..], [one] if one.contains(fault)),
        "{faults:?}"
    );
}

#[test]
fn a_good_header_has_no_faults() {
    let faults = faults_with("", "");
    assert!(faults.is_empty(), "{faults:?}");
}

#[test]
fn everything_needs_a_comment() {
    is_fault("/** It went well. */\n", "", "MCANDLE_OK: no comment");
    is_fault("/** How it went. */\n", "", "mcandle_status: no comment");
    is_fault(
        "/** Something of the library. */\n",
        "",
        "mcandle_thing: no comment",
    );
    let comment = "/**\n * Frees a thing.\n *\n * @param[in] thing The thing, or NULL.\n */\n";
    is_fault(comment, "", "mcandle_thing_free: no comment");
    // One that stands apart, or is not of Doxygen, is none.
    is_fault(
        "/** It went well. */\n",
        "/** It went well. */\n\n",
        "MCANDLE_OK: no comment",
    );
    is_fault(
        "/** It went well. */\n",
        "/* It went well. */\n",
        "MCANDLE_OK: no comment",
    );
}

#[test]
fn parameters_are_documented_as_they_are_declared() {
    let other = " * @param[in,out] other Another thing.\n";
    is_fault(other, "", "mcandle_thing_find: documents");
    is_fault(other, &other.repeat(2), "mcandle_thing_find: documents");
    is_fault(
        " other Another",
        " others Another",
        "mcandle_thing_find: documents",
    );
    is_fault(
        "float *numbers,",
        "float *numbers, int count,",
        "mcandle_hears_callback: documents",
    );
    is_fault("other Another thing.", "other", "nothing is said of other");
}

#[test]
fn directions_are_those_of_the_types() {
    is_fault("[in] name", "[out] name", "name is [out], not [in]");
    is_fault(
        "[in,out] other",
        "[in] other",
        "other is [in], not [in,out]",
    );
    is_fault("[out] thing", " thing", "thing is [], not [out]");
    is_fault("[in] made", "[in,out] made", "made is [in,out], not [in]");
    is_fault(
        "[in,out] numbers",
        "[out] numbers",
        "numbers is [out], not [in,out]",
    );
}

#[test]
fn results_are_documented_unless_there_are_none() {
    is_fault(
        " * @return True to go on.\n",
        "",
        "mcandle_hears_callback: returns bool",
    );
    is_fault(
        " or NULL.\n */\nvoid",
        " or NULL.\n * @return It.\n */\nvoid",
        "returns void",
    );
}

#[test]
fn it_is_said_who_frees_and_what_lives_how_long() {
    is_fault(
        "to be freed with\n * mcandle_thing_free().",
        "freed.",
        "does not say that",
    );
    is_fault(
        "A thing, to be freed with mcandle_thing_free().",
        "A thing.",
        "frees the result",
    );
    is_fault("MCANDLE_MUST_USE ", "", "must be used");
    is_fault(
        "made The thing, to be freed with mcandle_thing_free(), or NULL",
        "made The thing",
        "made does not say that",
    );
    is_fault(
        "which lives as long as the thing",
        "a text",
        "how long the result lives",
    );
}

#[test]
fn the_errors_of_arguments_are_named() {
    is_fault(
        "@return MCANDLE_OK, or",
        "@return",
        "does not say MCANDLE_OK",
    );
    is_fault(
        "MCANDLE_NULL_POINTER, M",
        "M",
        "does not say MCANDLE_NULL_POINTER",
    );
    is_fault(
        ", MCANDLE_INVALID_UTF8.",
        ".",
        "does not say MCANDLE_INVALID_UTF8",
    );
    is_fault(", or MCANDLE_BUSY,", ", or", "does not say MCANDLE_BUSY");
}

#[test]
fn names_are_declared() {
    is_fault(
        "as mcandle_thing_name()",
        "as mcandle_name()",
        "names mcandle_name,",
    );
    is_fault("@see MCANDLE_OK", "@see MCANDLE_KO", "names MCANDLE_KO,");
}

#[test]
fn words_and_links_of_rust_are_not_for_c() {
    is_fault("Something of", "A trait of", "a word of Rust: trait");
    is_fault("Something of", "An Option of", "a word of Rust: Option");
    is_fault("the library.", "[`Library`].", "a link or heading of Rust");
    is_fault(
        "the library.",
        "the [library](x).",
        "a link or heading of Rust",
    );
}

#[test]
#[should_panic(expected = "a visible structure")]
fn structures_are_opaque() {
    parse::items("typedef struct mcandle_pair {\n  int32_t one;\n} mcandle_pair;\n");
}
