/**
 * @file
 * Objects of C that are freed, and calls of C that can fail.
 */
#ifndef METAL_CANDLE_HANDLE_HPP
#define METAL_CANDLE_HANDLE_HPP

#include "metal_candle/error.hpp"

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

MCANDLE_NAMESPACE_BEGIN

/**
 * Owns an object of C, and frees it. It moves and does not copy. What was moved from holds nothing:
 * operations on it fail with status::null_pointer, and its numbers are 0.
 */
template <class T, void (*Free)(T *)> class handle {
public:
    /** The type of C. */
    using c_type = T;

    /** Takes an object that the caller owns; a null pointer is allowed. */
    explicit handle(T *owned) noexcept : object_(owned) {}

    /** Gives the object, to be used with functions of C; it stays owned. */
    T *get() noexcept { return object_.get(); }

    /** Gives the object, to be used with functions of C that do not change it. */
    const T *get() const noexcept { return object_.get(); }

    /** Gives the object away: the caller frees it. */
    T *release() noexcept { return object_.release(); }

    /** Tells whether there is an object. */
    explicit operator bool() const noexcept { return object_ != nullptr; }

private:
    struct deleter {
        void operator()(T *object) const noexcept { Free(object); }
    };
    std::unique_ptr<T, deleter> object_;
};

namespace detail {

/** Owns an object of C together with the streams and tasks that use it: it is freed when the last
 * of them ends. */
template <class T, void (*Free)(T *)> class shared_handle {
public:
    /** The type of C. */
    using c_type = T;

    /** Takes an object that the caller owns; a null pointer is allowed. */
    explicit shared_handle(T *owned) : object_(owned, Free) {}

    shared_handle(shared_handle &&) noexcept = default;
    shared_handle &operator=(shared_handle &&) noexcept = default;

    /** Gives the object, to be used with functions of C; it stays owned. */
    T *get() noexcept { return object_.get(); }

    /** Gives the object, to be used with functions of C that do not change it. */
    const T *get() const noexcept { return object_.get(); }

    /** Tells whether there is an object. */
    explicit operator bool() const noexcept { return object_ != nullptr; }

protected:
    ~shared_handle() = default;

    const std::shared_ptr<T> &share() const noexcept { return object_; }

private:
    std::shared_ptr<T> object_;
};

/** Points to an object of C that something else owns. */
template <class T> class pointer {
public:
    explicit pointer(const T *object) noexcept : object_(object) {}

    /** Gives the object of C. */
    const T *get() const noexcept { return object_; }

private:
    const T *object_;
};

/** How the place in which C puts an output becomes a T. */
template <class T, class = void> struct output {
    using type = T;
    static T take(T value) { return value; }
};

template <class T> struct output<T, std::void_t<typename T::c_type>> {
    using type = typename T::c_type *;
    static T take(type object) { return T(object); }
};

template <> struct output<std::string> {
    using type = mcandle_string *;
    static std::string take(type object) {
        const handle<mcandle_string, mcandle_string_free> owner(object);
        return std::string(mcandle_string_data(owner.get()), mcandle_string_length(owner.get()));
    }
};

template <> struct output<std::vector<std::uint32_t>> {
    using type = mcandle_tokens *;
    static std::vector<std::uint32_t> take(type object) {
        const handle<mcandle_tokens, mcandle_tokens_free> owner(object);
        const std::uint32_t *data = mcandle_tokens_data(owner.get());
        return std::vector<std::uint32_t>(data, data + mcandle_tokens_length(owner.get()));
    }
};

template <> struct output<std::vector<float>> {
    using type = mcandle_floats *;
    static std::vector<float> take(type object) {
        const handle<mcandle_floats, mcandle_floats_free> owner(object);
        const float *data = mcandle_floats_data(owner.get());
        return std::vector<float>(data, data + mcandle_floats_length(owner.get()));
    }
};

/** Calls `call(&output, &error)`, or `call(&error)` where T is void. */
template <class T, class Call> expected<T> attempt_call(Call &&call) {
    mcandle_error *raised = nullptr;
    const auto failure = [&raised](mcandle_status status) {
        const handle<mcandle_error, mcandle_error_free> owner(raised);
        return owner ? error(owner.get())
                     : error(static_cast<mcandle::status>(status), mcandle_status_name(status));
    };
    if constexpr (std::is_void_v<T>) {
        const mcandle_status status = call(&raised);
        return status == MCANDLE_OK ? expected<void>() : expected<void>(failure(status));
    } else {
        typename output<T>::type out{};
        const mcandle_status status = call(&out, &raised);
        if (status != MCANDLE_OK) {
            return failure(status);
        }
        return output<T>::take(out);
    }
}

/** Gives the value or throws the error; without exceptions it gives what it got. */
template <class T> result<T> unwrap(expected<T> outcome) {
#if defined(MCANDLE_NO_EXCEPTIONS)
    return outcome;
#else
    return std::move(outcome).value();
#endif
}

/** Fails with an error. */
template <class T> result<T> fail(error error) { return unwrap(expected<T>(std::move(error))); }

/** Calls a function of C, as attempt_call() does, and gives its output or throws. */
template <class T, class Call> result<T> call(Call &&call) {
    return unwrap(attempt_call<T>(std::forward<Call>(call)));
}

/** What an operation fails with that got an object which was moved from. */
inline error moved_from(const char *what) {
    return error(status::null_pointer, std::string("the ") + what + " was moved from");
}

/**
 * Makes a text that ends with a NUL. C would take one that holds a NUL for a shorter text: its NULs
 * become bytes that no UTF-8 has, so that it is refused.
 */
inline std::string terminated(std::string_view text) {
    std::string copy(text);
    for (char &byte : copy) {
        byte = byte == '\0' ? '\xff' : byte;
    }
    return copy;
}

/** Makes the UTF-8 of a path, whatever the system's own characters are. */
inline std::string terminated(const std::filesystem::path &path) {
    const auto text = path.u8string();
    return terminated(std::string_view(reinterpret_cast<const char *>(text.data()), text.size()));
}

/** Makes a path of UTF-8. */
inline std::filesystem::path to_path(std::string_view text) {
#if defined(__cpp_char8_t) && defined(__cpp_lib_char8_t)
    return std::filesystem::path(
        std::u8string_view(reinterpret_cast<const char8_t *>(text.data()), text.size()));
#else
    return std::filesystem::u8path(text.begin(), text.end());
#endif
}

/** Makes the number of C of a constant. */
template <class Enum> constexpr std::int32_t number(Enum value) noexcept {
    return static_cast<std::int32_t>(value);
}

/** Gives the start of a text; of an empty one a null pointer, which stands for the defaults. */
inline const char *data_or_null(std::string_view text) noexcept {
    return text.empty() ? nullptr : text.data();
}

/** Gives a text of C whose length a function writes. */
template <class Get> std::string_view text_of(Get get) noexcept {
    std::size_t length = 0;
    const char *text = get(&length);
    return std::string_view(text, length);
}

} // namespace detail

MCANDLE_NAMESPACE_END

#endif
