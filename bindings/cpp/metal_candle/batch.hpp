/**
 * @file
 * Generation of many texts at once.
 */
#ifndef METAL_CANDLE_BATCH_HPP
#define METAL_CANDLE_BATCH_HPP

#include "metal_candle/logits_processor.hpp"
#include "metal_candle/model.hpp"
#include "metal_candle/request.hpp"

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <string_view>
#include <type_traits>
#include <utility>

MCANDLE_NAMESPACE_BEGIN

/** What became of one text of a batch; it lives as long as the results that it is among. */
class batch_result {
public:
    /** One of the results of C. */
    batch_result(const mcandle_batch_results *results, std::size_t index) noexcept
        : results_(results), index_(index) {}

    /** Gives the number that the text got when it was added. */
    std::size_t sequence() const noexcept {
        return mcandle_batch_results_sequence(results_, index_);
    }

    /** Gives the error of a text that failed, and nothing for another. */
    std::optional<mcandle::error> error() const {
        const mcandle_error *error = mcandle_batch_results_error(results_, index_);
        return error == nullptr ? std::nullopt : std::optional<mcandle::error>(error);
    }

    /** Gives the generation of a text that did not fail; else it fails with the text's error. */
    result<generation_view> generation() const {
        if (auto failure = error()) {
            return detail::fail<generation_view>(*std::move(failure));
        }
        return generation_view(mcandle_batch_results_generation(results_, index_));
    }

private:
    const mcandle_batch_results *results_;
    std::size_t index_;
};

/** What became of the texts of a batch that finished, in the order in which they did. */
class batch_results : public handle<mcandle_batch_results, mcandle_batch_results_free> {
public:
    using handle::handle;

    /** Goes over the results. */
    class iterator {
    public:
        using iterator_category = std::input_iterator_tag;
        using value_type = batch_result;
        using difference_type = std::ptrdiff_t;
        using pointer = void;
        using reference = batch_result;

        iterator() = default;
        iterator(const mcandle_batch_results *results, std::size_t index) noexcept
            : results_(results), index_(index) {}

        batch_result operator*() const noexcept { return {results_, index_}; }
        iterator &operator++() noexcept {
            index_++;
            return *this;
        }
        iterator operator++(int) noexcept {
            const iterator before = *this;
            index_++;
            return before;
        }
        friend bool operator==(const iterator &a, const iterator &b) noexcept {
            return a.index_ == b.index_;
        }
        friend bool operator!=(const iterator &a, const iterator &b) noexcept { return !(a == b); }

    private:
        const mcandle_batch_results *results_ = nullptr;
        std::size_t index_ = 0;
    };

    /** Gives the number of results. */
    std::size_t size() const noexcept { return mcandle_batch_results_length(get()); }

    /** Tells whether there is none. */
    bool empty() const noexcept { return size() == 0; }

    /** Gives a result by its place. */
    batch_result operator[](std::size_t index) const noexcept { return {get(), index}; }

    /** Gives the place of the first result. */
    iterator begin() const noexcept { return {get(), 0}; }

    /** Gives the place behind the last result. */
    iterator end() const noexcept { return {get(), size()}; }
};

/**
 * Generates many texts at the same time, each with options of its own, for little more than the
 * time of the longest. Each text gets the tokens that it gets alone, but for rounding.
 *
 * It serves one call at a time; another call meanwhile fails with status::busy.
 */
class batch : public detail::shared_handle<mcandle_batch, mcandle_batch_free> {
public:
    /** Takes a batch of C that the caller owns. */
    explicit batch(mcandle_batch *owned)
        : shared_handle(owned), thrown_(std::make_shared<detail::caught>()) {}

    /**
     * Makes a batch without texts.
     *
     * @param model The model; it need not outlive the batch.
     * @param max_batch_size The most texts to work on at once; more wait.
     */
    static result<batch> create(const model &model, std::size_t max_batch_size) {
        return detail::call<batch>([&](auto *batch, auto *error) {
            return mcandle_batch_new(model.get(), max_batch_size, batch, error);
        });
    }

    /** Uses an adapter for the texts that are added from now on. */
    result<void> set_adapter(const adapter &adapter) {
        if (!adapter) {
            return detail::fail<void>(detail::moved_from("adapter"));
        }
        return use_adapter(adapter.get());
    }

    /** Uses the adapters that are active on the model when a text is added. */
    result<void> clear_adapter() { return use_adapter(nullptr); }

    /** Adds a text to be continued, also between steps. It gives the number of the text, which
     * counts from 0. */
    result<std::size_t> push(std::string_view prompt, const generate_options &options = {}) {
        return add(options, [&](auto *sequence, auto *error) {
            return mcandle_batch_push(get(), prompt.data(), prompt.size(), options.get(), sequence,
                                      error);
        });
    }

    /** Adds token ids to be continued. The model needs no tokenizer. */
    result<std::size_t> push_ids(span<const std::uint32_t> ids,
                                 const generate_options &options = {}) {
        return add(options, [&](auto *sequence, auto *error) {
            return mcandle_batch_push_ids(get(), ids.data(), ids.size(), options.get(), sequence,
                                          error);
        });
    }

    /** Adds token ids to be continued, with a function that changes the logits of this text alone,
     * as for generator::set_logits_processor(). An exception that it throws ends the run. */
    template <class Processor>
    result<std::size_t> push_ids(span<const std::uint32_t> ids, const generate_options &options,
                                 Processor &&processor) {
        using owned = detail::logits_processor<std::decay_t<Processor>>;
        return add(options, [&](auto *sequence, auto *error) {
            auto *user_data = new owned(std::forward<Processor>(processor), thrown_, get());
            return mcandle_batch_push_ids_with(get(), ids.data(), ids.size(), options.get(),
                                               &owned::call, user_data, &owned::free, sequence,
                                               error);
        });
    }

    /** Gives the number of texts that are not finished. */
    result<std::size_t> size() const {
        return detail::call<std::size_t>(
            [&](auto *length, auto *error) { return mcandle_batch_length(get(), length, error); });
    }

    /**
     * Generates until all texts are finished. A text that fails stops no other.
     *
     * @param on_token Is told of the chunks of all texts. It returns nothing, or false to end the
     * text of the chunk; an exception that it throws ends all texts and comes out of the call.
     * @param stop Stops all texts; in C++20 a std::stop_token.
     */
    template <class OnToken = std::nullptr_t>
    result<batch_results> run(OnToken &&on_token = nullptr, const stop_signal &stop = {}) {
        return work(&mcandle_batch_run, on_token, stop);
    }

    /** Computes the next token of every text, or a part of its prompt where that is long; run()
     * tells of the parameters. */
    template <class OnToken = std::nullptr_t>
    result<batch_results> step(OnToken &&on_token = nullptr, const stop_signal &stop = {}) {
        return work(&mcandle_batch_step, on_token, stop);
    }

    /** Generates as run() does, on a thread of the library, which calls the callback too. Meanwhile
     * the batch is busy. It may end before: the run goes on. */
    template <class OnToken = std::nullptr_t>
    future<batch_results> run_async(OnToken &&on_token = nullptr, const stop_signal &stop = {}) {
        auto cancel = [batch = share()] { mcandle_batch_cancel(batch.get()); };
        using task = detail::task<batch_results, chunk, std::decay_t<OnToken>, decltype(cancel)>;
        return task::run(
            std::make_unique<task>(std::forward<OnToken>(on_token), stop, cancel, thrown_),
            [&](void *self, auto *error) {
                return mcandle_batch_run_async(get(), &task::tell_c, &task::complete, self, error);
            });
    }

    /** Ends one text before its next token. It gives whether the text was there, unfinished. */
    result<bool> cancel_sequence(std::size_t sequence) {
        return detail::call<bool>([&](auto *found, auto *error) {
            return mcandle_batch_cancel_sequence(get(), sequence, found, error);
        });
    }

    /** Stops all texts. Any thread may call it at any time. */
    void cancel() const noexcept { mcandle_batch_cancel(get()); }

private:
    result<void> use_adapter(const mcandle_adapter *adapter) {
        return detail::call<void>(
            [&](auto *error) { return mcandle_batch_set_adapter(get(), adapter, error); });
    }

    template <class Call> result<std::size_t> add(const generate_options &options, Call &&call) {
        if (auto refusal = options.refusal()) {
            return detail::fail<std::size_t>(*std::move(refusal));
        }
        return detail::call<std::size_t>(std::forward<Call>(call));
    }

    template <class Work, class OnToken>
    result<batch_results> work(Work work, OnToken &on_token, const stop_signal &stop) {
        struct {
            detail::listener<chunk, OnToken> told;
            const mcandle_batch *batch;
        } run{{on_token, stop}, get()};
        const mcandle_chunk_callback callback = [](const mcandle_chunk *told, void *self) noexcept {
            auto &one = *static_cast<decltype(run) *>(self);
            const bool goes_on = one.told.tell(chunk(told));
            if (one.told.threw()) {
                mcandle_batch_cancel(one.batch);
            }
            return goes_on;
        };
        [[maybe_unused]] const auto cancel =
            stop.on_request([batch = get()] { mcandle_batch_cancel(batch); });
        auto outcome = detail::attempt_call<batch_results>([&](auto *results, auto *error) {
            return work(get(), callback, &run, results, error);
        });
        run.told.rethrow();
        if (outcome) {
            thrown_->rethrow();
        }
        return detail::unwrap(std::move(outcome));
    }

    std::shared_ptr<detail::caught> thrown_;
};

MCANDLE_NAMESPACE_END

#endif
