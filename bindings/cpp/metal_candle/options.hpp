/**
 * @file
 * What options of all kinds have in common.
 */
#ifndef METAL_CANDLE_OPTIONS_HPP
#define METAL_CANDLE_OPTIONS_HPP

#include "metal_candle/handle.hpp"

#include <optional>
#include <string>
#include <string_view>
#include <utility>

MCANDLE_NAMESPACE_BEGIN

/**
 * Options over an object of C, which has the defaults. Setters give the options again, so they
 * chain.
 *
 * A value that is out of range is reported by the call that uses the options; so is a text that a
 * setter refused. Ranges and defaults are those of the function of C whose name ends like the
 * setter's.
 */
template <class Derived, class Traits> class basic_options {
public:
    /** The type of C. */
    using c_type = typename Traits::c_type;

    /** Makes options with the defaults. */
    basic_options() : handle_(Traits::make()) {}

    /** Takes options of C that the caller owns. */
    explicit basic_options(c_type *owned) noexcept : handle_(owned) {}

    /** Takes what other options have. */
    basic_options(basic_options &&) noexcept = default;

    /** Takes what other options have. */
    basic_options &operator=(basic_options &&) noexcept = default;

    /** Makes the same options; what cannot be copied is reported by the call that uses the copy. */
    basic_options(const basic_options &other) : handle_(nullptr), refusal_(other.refusal()) {
        if (!refusal_) {
            auto copy = detail::attempt_call<std::string>([&other](auto *json, auto *error) {
                return Traits::to_json(other.get(), json, error);
            });
            if (copy) {
                take(parse(*copy));
            } else {
                refusal_ = copy.error();
            }
        }
    }

    /** Makes the same options, as the constructor does. */
    basic_options &operator=(const basic_options &other) { return *this = basic_options(other); }

    /** Makes options from JSON: an object whose keys are the names of the setters. */
    static result<Derived> from_json(std::string_view json) { return detail::unwrap(parse(json)); }

    /** Writes options as JSON, from which from_json() makes the same options. */
    result<std::string> to_json() const {
        if (auto error = refusal()) {
            return detail::fail<std::string>(*std::move(error));
        }
        return detail::call<std::string>(
            [this](auto *json, auto *error) { return Traits::to_json(get(), json, error); });
    }

    /** Gives what a setter refused, or that the options were moved from; nothing where they can be
     * used. */
    std::optional<error> refusal() const {
        if (!refusal_ && !handle_) {
            return detail::moved_from("options");
        }
        return refusal_;
    }

    /** Gives the options of C; they stay owned. */
    c_type *get() noexcept { return handle_.get(); }

    /** Gives the options of C, to be read. */
    const c_type *get() const noexcept { return handle_.get(); }

protected:
    ~basic_options() = default;

    /** Gives the options as what they are. */
    Derived &self() noexcept { return static_cast<Derived &>(*this); }

    /** Calls a setter that can fail, and keeps its error for the call that uses the options. */
    template <class Call> Derived &set(Call &&call) {
        const auto outcome = detail::attempt_call<void>(std::forward<Call>(call));
        if (!outcome && !refusal_) {
            refusal_ = outcome.error();
        }
        return self();
    }

private:
    static expected<Derived> parse(std::string_view json) {
        return detail::attempt_call<Derived>([json](auto *options, auto *error) {
            return Traits::from_json(json.data(), json.size(), options, error);
        });
    }

    void take(expected<Derived> parsed) {
        if (parsed) {
            basic_options &made = *parsed;
            handle_ = std::move(made.handle_);
        } else {
            refusal_ = parsed.error();
        }
    }

    handle<c_type, Traits::free> handle_;
    std::optional<error> refusal_;
};

MCANDLE_NAMESPACE_END

#endif
