/**
 * @file
 * Functions of a program that C calls back, and how they are stopped.
 */
#ifndef METAL_CANDLE_CALLBACK_HPP
#define METAL_CANDLE_CALLBACK_HPP

#include "metal_candle/handle.hpp"

#include <cstddef>
#include <exception>
#include <type_traits>
#include <utility>

#if defined(__cpp_lib_jthread)
#include <stop_token>
#endif

MCANDLE_NAMESPACE_BEGIN

#if defined(__cpp_lib_jthread)

inline namespace cpp20 {

/** Stops an operation: a std::stop_token, or nothing. */
class stop_signal {
public:
    /** Never stops. */
    stop_signal() = default;

    /** Stops when a token says so. */
    stop_signal(std::stop_token token) noexcept : token_(std::move(token)) {}

    /** Tells whether the operation is to stop. */
    bool requested() const noexcept { return token_.stop_requested(); }

    /** Calls a function when the stop is requested, while what is returned lives. */
    template <class Function> std::stop_callback<Function> on_request(Function function) const {
        return std::stop_callback<Function>(token_, std::move(function));
    }

private:
    std::stop_token token_;
};

} // namespace cpp20

#else

inline namespace cpp17 {

/** Stops an operation. C++17 has no std::stop_token, so it never does. */
class stop_signal {
public:
    /** Tells whether the operation is to stop. */
    bool requested() const noexcept { return false; }

    /** Does nothing. */
    template <class Function> std::nullptr_t on_request(const Function &) const { return nullptr; }
};

} // namespace cpp17

#endif

namespace detail {

/** Keeps the exception of a callback while C returns, since none may cross it. */
class caught {
public:
    /** Runs a function that gives true, false to stop, or nothing. An exception stops too: after it
     * no function is run until it was thrown again. */
    template <class Function> bool run(Function &&function) noexcept {
#if defined(MCANDLE_NO_EXCEPTIONS)
        return goes_on(function);
#else
        try {
            return !holds() && goes_on(function);
        } catch (...) {
            exception_ = std::current_exception();
            return false;
        }
#endif
    }

    /** Tells whether there is an exception that was not thrown again. */
    bool holds() const noexcept { return exception_ != nullptr; }

    /** Gives what was caught, once. */
    std::exception_ptr take() noexcept { return std::exchange(exception_, nullptr); }

    /** Throws what was caught, once. */
    void rethrow() {
#if !defined(MCANDLE_NO_EXCEPTIONS)
        if (exception_ != nullptr) {
            std::rethrow_exception(take());
        }
#endif
    }

private:
    template <class Function> static bool goes_on(Function &function) {
        if constexpr (std::is_void_v<std::invoke_result_t<Function &>>) {
            function();
            return true;
        } else {
            return static_cast<bool>(function());
        }
    }

    std::exception_ptr exception_;
};

/** Hands what C tells, as a View, to a function for the time of one call. */
template <class View, class Function> class listener {
public:
    static_assert(std::is_same_v<Function, std::nullptr_t> ||
                      std::is_invocable_v<Function &, const View &>,
                  "the callback has to take what it is told, by value or constant reference");

    listener(Function &function, stop_signal stop) noexcept
        : function_(function), stop_(std::move(stop)) {}

    /** Tells the function. It gives whether to go on. */
    bool tell(const View &view) noexcept {
        if (stop_.requested()) {
            return false;
        }
        if constexpr (std::is_same_v<Function, std::nullptr_t>) {
            return true;
        } else {
            return caught_.run([&]() -> decltype(auto) { return function_(view); });
        }
    }

    /** Tells whether the function threw. */
    bool threw() const noexcept { return caught_.holds(); }

    /** Gives what the function threw, once. */
    std::exception_ptr take() noexcept { return caught_.take(); }

    /** Throws what the function threw. */
    void rethrow() { caught_.rethrow(); }

private:
    Function &function_;
    stop_signal stop_;
    caught caught_;
};

/** The callback of C for a listener, which is its user data. */
template <class View, class Function>
bool tell(const typename View::c_type *told, void *self) noexcept {
    return static_cast<listener<View, Function> *>(self)->tell(View(told));
}

} // namespace detail

MCANDLE_NAMESPACE_END

#endif
