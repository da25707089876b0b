/* What the C tests share. A test that fails says where, and exits with 1. */
#ifndef TEST_H
#define TEST_H

#include "metal_candle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODEL_DIR "assets/tiny-coder"

/* What outputs hold before a call that fails, and still must hold after it. */
#define UNTOUCHED untouched()
#ifdef __cplusplus
/* C turns void * into any pointer, C++ does not. */
struct any_pointer {
    void *mark;
    template <typename T> operator T *() const { return static_cast<T *>(mark); }
};
static inline any_pointer untouched(void) {
    static char mark;
    any_pointer pointer = {&mark};
    return pointer;
}
static inline bool operator==(void *pointer, any_pointer other) { return pointer == other.mark; }
#else
static inline void *untouched(void) {
    static char mark;
    return &mark;
}
#endif

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);              \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* Checks that a call, which gives `error` as its last argument, succeeds. */
#define SUCCEEDS(call)                                                                             \
    do {                                                                                           \
        mcandle_error *object = NULL, **error = &object;                                           \
        if ((call) != MCANDLE_OK) {                                                                \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, mcandle_error_message(object));     \
            exit(1);                                                                               \
        }                                                                                          \
        CHECK(object == NULL);                                                                     \
    } while (0)

/* Checks that a call, which gives `error` as its last argument, fails with a status and a message
 * that holds all the given parts; and that it fails in the same way without a place for an error. */
#define FAILS(call, wanted, ...)                                                                   \
    do {                                                                                           \
        mcandle_error *object = NULL, **error = &object;                                           \
        const char *parts[] = {__VA_ARGS__};                                                       \
        mcandle_status found = (call);                                                             \
        check_failure(__FILE__, __LINE__, found, wanted, object, parts,                            \
                      sizeof parts / sizeof parts[0]);                                             \
        error = NULL;                                                                              \
        CHECK((call) == (wanted));                                                                 \
    } while (0)

static inline void check_failure(const char *file, int line, mcandle_status found,
                                 mcandle_status wanted, mcandle_error *error,
                                 const char *const *parts, size_t count) {
    const char *message = mcandle_error_message(error);
    size_t i;
    if (found != wanted || mcandle_error_status(error) != wanted) {
        fprintf(stderr, "%s:%d: %s, not %s: %s\n", file, line, mcandle_status_name(found),
                mcandle_status_name(wanted), message);
        exit(1);
    }
    for (i = 0; i < count; i++) {
        if (strstr(message, parts[i]) == NULL) {
            fprintf(stderr, "%s:%d: \"%s\" is not in: %s\n", file, line, parts[i], message);
            exit(1);
        }
    }
    mcandle_error_free(error);
}

/* Whether heavy parts are to be skipped, as under a memory checker. */
static inline bool is_light(void) {
    return getenv("MCANDLE_TEST_LIGHT") != NULL;
}

#endif
