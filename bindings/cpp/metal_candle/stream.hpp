/**
 * @file
 * Generation as a range of tokens.
 */
#ifndef METAL_CANDLE_STREAM_HPP
#define METAL_CANDLE_STREAM_HPP

#include "metal_candle/request.hpp"

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <iterator>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

MCANDLE_NAMESPACE_BEGIN

/**
 * The tokens of a generation as they come, which a thread of the stream's own generates.
 *
 *     for (const mcandle::token &token : generator.stream("fn main() {"))
 *         std::cout << token.text << std::flush;
 *
 * The thread goes ahead by a few tokens and waits then. A stream that ends before its generation,
 * as when a loop is left, cancels it and waits for the thread. What fails is thrown where the next
 * token is asked for; without exceptions the tokens end, and finish() tells.
 *
 * The generator is busy while the stream generates. It may end before the stream.
 */
class token_stream {
    class worker;

public:
    /** Goes over the tokens once. */
    class iterator {
    public:
        using iterator_category = std::input_iterator_tag;
        using value_type = token;
        using difference_type = std::ptrdiff_t;
        using pointer = const token *;
        using reference = const token &;

        iterator() = default;
        explicit iterator(worker *worker) : worker_(worker) {}

        const token &operator*() const;
        const token *operator->() const { return &**this; }

        /** Waits for the next token. */
        iterator &operator++();

        /** The token before the step. */
        struct previous {
            token value;
            const token &operator*() const noexcept { return value; }
        };
        previous operator++(int) {
            previous before{**this};
            ++*this;
            return before;
        }

        friend bool operator==(const iterator &a, const iterator &b) noexcept {
            return a.worker_ == b.worker_;
        }
        friend bool operator!=(const iterator &a, const iterator &b) noexcept { return !(a == b); }

    private:
        worker *worker_ = nullptr;
    };

    /** Starts to generate; generator::stream() and its like do so. */
    template <class Request>
    token_stream(std::shared_ptr<mcandle_generator> generator, Request request,
                 const generate_options &options, stop_signal stop,
                 std::shared_ptr<detail::caught> thrown_by_processor);

    token_stream(token_stream &&) noexcept = default;
    token_stream &operator=(token_stream &&) noexcept = default;

    /** Waits for the first token that was not taken yet. */
    iterator begin();

    /** Gives the place behind the last token. */
    iterator end() const noexcept { return iterator(); }

    /** Generates what is left, and gives the finished generation, once. */
    result<generation> finish();

private:
    std::unique_ptr<worker> worker_;
};

/** The thread of a stream, and what it hands over. */
class token_stream::worker {
public:
    explicit worker(std::shared_ptr<mcandle_generator> generator)
        : generator_(std::move(generator)) {}

    worker(const worker &) = delete;
    worker &operator=(const worker &) = delete;

    ~worker() {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            abandoned_ = true;
        }
        changed_.notify_all();
        mcandle_generator_cancel(generator_.get());
        if (thread_.joinable()) {
            thread_.join();
        }
    }

    template <class Request>
    void start(Request request, const generate_options &options, stop_signal stop,
               std::shared_ptr<detail::caught> thrown_by_processor) {
        thread_ = std::thread([this, request = std::move(request), options, stop = std::move(stop),
                               thrown_by_processor = std::move(thrown_by_processor)] {
            const auto push = [this](const chunk &chunk) { return hand_over(token(chunk)); };
#if defined(MCANDLE_NO_EXCEPTIONS)
            end(detail::generate(generator_.get(), request, options, push, stop,
                                 thrown_by_processor));
#else
            try {
                end(detail::generate(generator_.get(), request, options, push, stop,
                                     thrown_by_processor));
            } catch (...) {
                thrown_ = std::current_exception();
                end(error(status::cancelled, "the generation ended with an exception"));
            }
#endif
        });
    }

    const token &current() const noexcept { return *current_; }

    /** Waits for a token where none is current, and tells whether there is one. */
    bool fill() {
        std::unique_lock<std::mutex> lock(mutex_);
        if (current_) {
            return true;
        }
        changed_.wait(lock, [this] { return !ready_.empty() || outcome_; });
        if (!ready_.empty()) {
            current_ = std::move(ready_.front());
            ready_.pop_front();
            changed_.notify_all();
            return true;
        }
#if !defined(MCANDLE_NO_EXCEPTIONS)
        if (thrown_ != nullptr) {
            std::rethrow_exception(std::exchange(thrown_, nullptr));
        }
        if (!*outcome_ && !taken_) {
            throw outcome_->error();
        }
#endif
        return false;
    }

    bool advance() {
        current_.reset();
        return fill();
    }

    expected<generation> take() {
        taken_ = true;
        return std::exchange(*outcome_,
                             error(status::invalid_argument, "the generation was taken before"));
    }

private:
    static constexpr std::size_t capacity = 16;

    bool hand_over(token token) {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [this] { return ready_.size() < capacity || abandoned_; });
        if (!abandoned_) {
            ready_.push_back(std::move(token));
            changed_.notify_all();
        }
        return !abandoned_;
    }

    void end(expected<generation> outcome) {
        const std::lock_guard<std::mutex> lock(mutex_);
        outcome_ = std::move(outcome);
        changed_.notify_all();
    }

    std::shared_ptr<mcandle_generator> generator_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<token> ready_;
    std::optional<token> current_;
    std::optional<expected<generation>> outcome_;
    std::exception_ptr thrown_;
    bool abandoned_ = false;
    bool taken_ = false;
    std::thread thread_;
};

template <class Request>
token_stream::token_stream(std::shared_ptr<mcandle_generator> generator, Request request,
                           const generate_options &options, stop_signal stop,
                           std::shared_ptr<detail::caught> thrown_by_processor)
    : worker_(std::make_unique<worker>(std::move(generator))) {
    worker_->start(std::move(request), options, std::move(stop), std::move(thrown_by_processor));
}

inline token_stream::iterator token_stream::begin() {
    return worker_ != nullptr && worker_->fill() ? iterator(worker_.get()) : iterator();
}

inline result<generation> token_stream::finish() {
    if (worker_ == nullptr) {
        return detail::fail<generation>(detail::moved_from("stream"));
    }
    while (worker_->advance()) {
    }
    return detail::unwrap(worker_->take());
}

inline const token &token_stream::iterator::operator*() const { return worker_->current(); }

inline token_stream::iterator &token_stream::iterator::operator++() {
    if (!worker_->advance()) {
        worker_ = nullptr;
    }
    return *this;
}

MCANDLE_NAMESPACE_END

#endif
