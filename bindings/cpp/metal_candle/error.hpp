/**
 * @file
 * What went wrong, thrown or given.
 */
#ifndef METAL_CANDLE_ERROR_HPP
#define METAL_CANDLE_ERROR_HPP

#include "metal_candle/config.hpp"

#include <cstdint>
#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

MCANDLE_NAMESPACE_BEGIN

/** The class of what went wrong. There may be more in later versions. */
enum class status : std::int32_t {
    ok = MCANDLE_OK,                             /**< Nothing went wrong. */
    invalid_argument = MCANDLE_INVALID_ARGUMENT, /**< An argument or option is out of range. */
    null_pointer = MCANDLE_NULL_POINTER,         /**< An object was moved from. */
    invalid_utf8 = MCANDLE_INVALID_UTF8,         /**< A text is not valid UTF-8. */
    not_found = MCANDLE_NOT_FOUND,               /**< A file or directory does not exist. */
    io = MCANDLE_IO,                             /**< A file could not be read or written. */
    invalid_format = MCANDLE_INVALID_FORMAT,     /**< A file or row is malformed. */
    unsupported = MCANDLE_UNSUPPORTED,           /**< Well-formed, but not supported. */
    tokenizer = MCANDLE_TOKENIZER,               /**< The tokenizer failed, or there is none. */
    device = MCANDLE_DEVICE,                     /**< The device is not available. */
    context_full = MCANDLE_CONTEXT_FULL,         /**< The tokens do not fit into the context. */
    non_finite = MCANDLE_NON_FINITE,             /**< A computation gave NaN or an infinity. */
    incompatible = MCANDLE_INCOMPATIBLE,         /**< Two things do not fit each other. */
    cancelled = MCANDLE_CANCELLED,               /**< The caller cancelled. */
    busy = MCANDLE_BUSY,                         /**< The object is in use. */
    backend = MCANDLE_BACKEND,                   /**< The backend failed, perhaps for memory. */
    internal = MCANDLE_INTERNAL,                 /**< A defect of the library. */
    out_of_memory = MCANDLE_OUT_OF_MEMORY,       /**< It needs more memory than it may have. */
};

/** Gives the name of a status in C, such as "MCANDLE_NOT_FOUND". */
inline std::string_view name(status status) noexcept {
    return mcandle_status_name(static_cast<mcandle_status>(status));
}

/** What went wrong, with a message for people: what was wrong, where, and what would be right. */
class error : public std::runtime_error {
public:
    /** Makes an error. */
    error(mcandle::status status, const std::string &message)
        : std::runtime_error(message), status_(status) {}

    /** Copies an error of C. */
    explicit error(const mcandle_error *copied)
        : error(static_cast<mcandle::status>(mcandle_error_status(copied)),
                mcandle_error_message(copied)) {}

    /** Gives the class of the error. */
    mcandle::status status() const noexcept { return status_; }

private:
    mcandle::status status_;
};

/** A value, or the error that is there in its place. */
template <class T> class [[nodiscard]] expected {
public:
    /** The type of the value. */
    using value_type = T;

    /** Holds a value. */
    expected(T value) : content_(std::in_place_index<0>, std::move(value)) {}
    /** Holds an error. */
    expected(mcandle::error error) : content_(std::in_place_index<1>, std::move(error)) {}

    /** Tells whether there is a value. */
    bool has_value() const noexcept { return content_.index() == 0; }

    /** Does as has_value(). */
    explicit operator bool() const noexcept { return has_value(); }

    /** @name Access
     * Gives the value. Where there is none, it throws the error; without exceptions the program
     * ends.
     * @{ */
    T &value() & { return check(), *std::get_if<0>(&content_); }
    const T &value() const & { return check(), *std::get_if<0>(&content_); }
    T &&value() && { return check(), std::move(*std::get_if<0>(&content_)); }

    T &operator*() & { return value(); }
    const T &operator*() const & { return value(); }
    T &&operator*() && { return std::move(*this).value(); }
    T *operator->() { return &value(); }
    const T *operator->() const { return &value(); }
    /** @} */

    /** Gives the error. There must be one. */
    const mcandle::error &error() const { return *std::get_if<1>(&content_); }

private:
    void check() const {
        if (!has_value()) {
#if defined(MCANDLE_NO_EXCEPTIONS)
            std::terminate();
#else
            throw error();
#endif
        }
    }

    std::variant<T, mcandle::error> content_;
};

/** Nothing, or the error of what gives nothing. */
template <> class [[nodiscard]] expected<void> {
public:
    /** There is no value. */
    using value_type = void;

    /** Holds no error. */
    expected() = default;

    /** Holds an error. */
    expected(mcandle::error error) : content_(std::in_place_index<1>, std::move(error)) {}

    /** Tells whether there is no error. */
    bool has_value() const noexcept { return content_.index() == 0; }

    /** Does as has_value(). */
    explicit operator bool() const noexcept { return has_value(); }

    /** Throws the error where there is one; without exceptions the program ends then. */
    void value() const {
        if (!has_value()) {
#if defined(MCANDLE_NO_EXCEPTIONS)
            std::terminate();
#else
            throw error();
#endif
        }
    }

    /** Gives the error. There must be one. */
    const mcandle::error &error() const { return *std::get_if<1>(&content_); }

private:
    std::variant<std::monostate, mcandle::error> content_;
};

/**
 * What an operation that can fail gives: a T, where it throws an mcandle::error on failure; an
 * expected of T, where there are no exceptions.
 */
#if defined(MCANDLE_NO_EXCEPTIONS)
template <class T> using result = expected<T>;
#else
template <class T> using result = T;
#endif

/**
 * Gives what a function gives, or the mcandle::error that it fails with, as an expected. It does so
 * with exceptions and without, and lets other exceptions pass.
 *
 *     auto model = mcandle::attempt([&] { return mcandle::model::load(path); });
 *     if (!model) std::cerr << model.error().what();
 */
template <class Function> auto attempt(Function &&function) {
#if defined(MCANDLE_NO_EXCEPTIONS)
    return std::forward<Function>(function)();
#else
    using value = std::invoke_result_t<Function>;
    try {
        if constexpr (std::is_void_v<value>) {
            std::forward<Function>(function)();
            return expected<void>();
        } else {
            return expected<value>(std::forward<Function>(function)());
        }
    } catch (const error &error) {
        return expected<value>(error);
    }
#endif
}

MCANDLE_NAMESPACE_END

#endif
