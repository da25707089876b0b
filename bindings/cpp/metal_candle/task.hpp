/**
 * @file
 * Work on threads of the library.
 */
#ifndef METAL_CANDLE_TASK_HPP
#define METAL_CANDLE_TASK_HPP

#include "metal_candle/callback.hpp"

#include <exception>
#include <future>
#include <memory>
#include <type_traits>
#include <utility>

MCANDLE_NAMESPACE_BEGIN

/**
 * What an operation will give that a thread of the library does. It gives a T, or throws what the
 * operation failed with or its callback threw; without exceptions it gives an expected of T.
 *
 * It does not wait where it ends: the operation goes on.
 */
template <class T> using future = std::future<result<T>>;

namespace detail {

/** Keeps what an operation needs that goes on after its call: callback, stop signal, promise. It
 * ends itself when the operation is complete. */
template <class T, class View, class Function, class Cancel> class task {
public:
    /** `cancel` stops the operation, and keeps the object alive that it is done with. */
    task(Function function, const stop_signal &stop, Cancel cancel,
         std::shared_ptr<caught> thrown_by_processor)
        : function_(std::move(function)),
          told_(function_, stop),
          cancel_(std::move(cancel)),
          thrown_by_processor_(std::move(thrown_by_processor)),
          requested_(stop.on_request(cancel_)) {}

    /** Calls `start(task, &error)`, which starts the operation with the task as user data. */
    template <class Start> static future<T> run(std::unique_ptr<task> self, Start &&start) {
        future<T> given = self->promise_.get_future();
        task *started = self.release();
        auto outcome = attempt_call<void>(
            [&](auto *error) { return start(static_cast<void *>(started), error); });
        if (!outcome) {
            std::unique_ptr<task>(started)->fulfil(outcome.error());
        }
        return given;
    }

    /** Gives a future that failed already. */
    static future<T> refuse(error error) {
        std::promise<result<T>> promise;
        settle(promise, expected<T>(std::move(error)), nullptr);
        return promise.get_future();
    }

    /** Tells the callback. */
    bool tell(const View &view) noexcept {
        const bool goes_on = told_.tell(view);
        if (told_.threw()) {
            cancel_();
        }
        return goes_on;
    }

    /** The callback of C that is told of a View. */
    template <class Told> static bool tell_c(const Told *told, void *self) noexcept {
        return static_cast<task *>(self)->tell(View(told));
    }

    /** The completion of C. */
    static void complete(typename output<T>::type made, mcandle_error *raised,
                         void *self) noexcept {
        const handle<mcandle_error, mcandle_error_free> failure(raised);
        std::unique_ptr<task> owner(static_cast<task *>(self));
        expected<T> outcome =
            failure ? expected<T>(error(failure.get())) : expected<T>(output<T>::take(made));
        std::exception_ptr thrown = owner->told_.take();
        if (thrown == nullptr && owner->thrown_by_processor_ != nullptr) {
            thrown = owner->thrown_by_processor_->take();
        }
        // What waits for the future finds the object free, and nothing left of the task.
        std::promise<result<T>> promise = std::move(owner->promise_);
        owner.reset();
        settle(promise, std::move(outcome), std::move(thrown));
    }

private:
    void fulfil(error error) { settle(promise_, expected<T>(std::move(error)), nullptr); }

    static void settle(std::promise<result<T>> &promise, expected<T> outcome,
                       [[maybe_unused]] std::exception_ptr thrown) {
#if defined(MCANDLE_NO_EXCEPTIONS)
        promise.set_value(std::move(outcome));
#else
        if (thrown != nullptr) {
            promise.set_exception(std::move(thrown));
        } else if (outcome) {
            promise.set_value(*std::move(outcome));
        } else {
            promise.set_exception(std::make_exception_ptr(outcome.error()));
        }
#endif
    }

    Function function_;
    listener<View, Function> told_;
    Cancel cancel_;
    std::shared_ptr<caught> thrown_by_processor_;
    std::promise<result<T>> promise_;
    decltype(std::declval<const stop_signal &>().on_request(std::declval<Cancel>())) requested_;
};

} // namespace detail

MCANDLE_NAMESPACE_END

#endif
