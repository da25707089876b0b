/**
 * @file
 * Generation of one text.
 */
#ifndef METAL_CANDLE_GENERATOR_HPP
#define METAL_CANDLE_GENERATOR_HPP

#include "metal_candle/logits_processor.hpp"
#include "metal_candle/model.hpp"
#include "metal_candle/request.hpp"
#include "metal_candle/stream.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

MCANDLE_NAMESPACE_BEGIN

/** How the hidden states of the tokens of a text become one vector. */
enum class pooling : std::int32_t {
    mean = MCANDLE_POOLING_MEAN, /**< Their mean. */
    last = MCANDLE_POOLING_LAST, /**< That of the last token. */
};

/** How well a model predicts a text. */
struct perplexity {
    double value;            /**< The exponential of the mean negative log-likelihood. */
    double sum_nll;          /**< The summed negative log-likelihood, in nats. */
    std::size_t token_count; /**< The number of scored tokens. */
};

/**
 * Generates text with a model, and the adapters that are active on it or that were set.
 *
 * It keeps what it has read: where a prompt starts as the last prompt and its answer did, that
 * start is not computed again.
 *
 * It serves one call at a time; another call meanwhile fails with status::busy. Make one for each
 * thread: they share the weights of the model.
 *
 * What generates takes a callback, which is told of each chunk on the calling thread and returns
 * nothing, or false to stop; an exception that it throws stops the generation and comes out of the
 * call. It also takes a stop signal, which in C++20 a std::stop_token is. A generation that was
 * stopped is no error: its finish reason tells.
 */
class generator : public detail::shared_handle<mcandle_generator, mcandle_generator_free> {
public:
    /** Takes a generator of C that the caller owns. */
    explicit generator(mcandle_generator *owned)
        : shared_handle(owned), thrown_(std::make_shared<detail::caught>()) {}

    /** Makes a generator; the model need not outlive it. */
    static result<generator> create(const model &model) {
        return detail::call<generator>([&](auto *generator, auto *error) {
            return mcandle_generator_new(model.get(), generator, error);
        });
    }

    /** Makes a generator that keeps keys and values in another form. */
    static result<generator> create(const model &model, cache_type cache_type) {
        return detail::call<generator>([&](auto *generator, auto *error) {
            return mcandle_generator_new_with_cache_type(model.get(), detail::number(cache_type),
                                                         generator, error);
        });
    }

    /** Makes a generator that has read the same, and goes its own way from here. It has the same
     * adapter and draft model, and no logits processor. */
    result<generator> fork() const {
        return detail::call<generator>(
            [&](auto *fork, auto *error) { return mcandle_generator_fork(get(), fork, error); });
    }

    /** Uses an adapter from the next generation on, whatever is active on the model. What was read
     * before is forgotten. */
    result<void> set_adapter(const adapter &adapter) {
        if (!adapter) {
            return detail::fail<void>(detail::moved_from("adapter"));
        }
        return use_adapter(adapter.get());
    }

    /** Uses the adapters that are active on the model. */
    result<void> clear_adapter() { return use_adapter(nullptr); }

    /** Lets a smaller model draft tokens that the generator's model checks. */
    result<void> set_draft_model(const model &draft) {
        if (!draft) {
            return detail::fail<void>(detail::moved_from("model"));
        }
        return use_draft_model(draft.get());
    }

    /** Drafts with no model. */
    result<void> clear_draft_model() { return use_draft_model(nullptr); }

    /**
     * Lets a function change the logits of every token from the next generation on.
     *
     * @param processor Takes span<const std::uint32_t> of tokens and span<float> of logits, which
     * it changes in place. It returns nothing, or false to fail the generation with
     * status::cancelled; an exception that it throws comes out of the call that generates. The
     * generator keeps it.
     */
    template <class Processor> result<void> set_logits_processor(Processor &&processor) {
        using owned = detail::logits_processor<std::decay_t<Processor>>;
        auto *user_data = new owned(std::forward<Processor>(processor), thrown_, nullptr);
        return detail::call<void>([&](auto *error) {
            return mcandle_generator_set_logits_processor(get(), &owned::call, user_data,
                                                          &owned::free, error);
        });
    }

    /** Removes the function that changes logits. */
    result<void> clear_logits_processor() {
        return detail::call<void>([&](auto *error) {
            return mcandle_generator_set_logits_processor(get(), nullptr, nullptr, nullptr, error);
        });
    }

    /** Continues a text.
     *
     * @param prompt The text in UTF-8.
     * @param options How it is continued.
     * @param on_token Is told of each chunk.
     * @param stop Stops the generation within a token.
     */
    template <class OnToken = std::nullptr_t>
    result<generation> generate(std::string_view prompt, const generate_options &options = {},
                                OnToken &&on_token = nullptr, const stop_signal &stop = {}) {
        return run(detail::text_request<std::string_view>{prompt}, options, on_token, stop);
    }

    /** Continues token ids, as generate() continues a text. The model needs no tokenizer. */
    template <class OnToken = std::nullptr_t>
    result<generation>
    generate_from_ids(span<const std::uint32_t> ids, const generate_options &options = {},
                      OnToken &&on_token = nullptr, const stop_signal &stop = {}) {
        return run(detail::ids_request<span<const std::uint32_t>>{ids}, options, on_token, stop);
    }

    /**
     * Answers the last message of a conversation, by the chat template of the model.
     *
     * @param messages The whole conversation as a JSON array, such as conversation::json() gives.
     * @param options How it is continued.
     * @param on_token Is told of each chunk.
     * @param stop Stops the generation within a token.
     * @param chat_options A JSON object with "tools", "add_generation_prompt",
     * "continue_final_message" and "arguments", all optional.
     */
    template <class OnToken = std::nullptr_t>
    result<generation> chat(std::string_view messages, const generate_options &options = {},
                            OnToken &&on_token = nullptr, const stop_signal &stop = {},
                            std::string_view chat_options = {}) {
        return run(detail::chat_request<std::string_view>{messages, chat_options}, options,
                   on_token, stop);
    }

    /**
     * Writes the code between a prefix and a suffix, with the tokens that the model has for it.
     *
     * @param prefix The code before.
     * @param suffix The code after.
     * @param options How it is continued.
     * @param on_token Is told of each chunk.
     * @param stop Stops the generation within a token.
     * @param context What else of the repository the model is shown.
     */
    template <class OnToken = std::nullptr_t>
    result<generation> complete(std::string_view prefix, std::string_view suffix,
                                const generate_options &options = {}, OnToken &&on_token = nullptr,
                                const stop_signal &stop = {}, const fim_context &context = {}) {
        return run(
            detail::fim_request<std::string_view, const fim_context &>{prefix, suffix, context},
            options, on_token, stop);
    }

    /** Continues a text as generate() does, on a thread of the library, which calls the callback
     * too. Meanwhile the generator is busy. It may end before: the generation goes on. */
    template <class OnToken = std::nullptr_t>
    future<generation> generate_async(std::string_view prompt, const generate_options &options = {},
                                      OnToken &&on_token = nullptr, const stop_signal &stop = {}) {
        return run_async(detail::text_request<std::string_view>{prompt}, options,
                         std::forward<OnToken>(on_token), stop);
    }

    /** Continues token ids as generate_from_ids() does, on a thread of the library. */
    template <class OnToken = std::nullptr_t>
    future<generation>
    generate_from_ids_async(span<const std::uint32_t> ids, const generate_options &options = {},
                            OnToken &&on_token = nullptr, const stop_signal &stop = {}) {
        return run_async(detail::ids_request<span<const std::uint32_t>>{ids}, options,
                         std::forward<OnToken>(on_token), stop);
    }

    /** Answers a conversation as chat() does, on a thread of the library. */
    template <class OnToken = std::nullptr_t>
    future<generation> chat_async(std::string_view messages, const generate_options &options = {},
                                  OnToken &&on_token = nullptr, const stop_signal &stop = {},
                                  std::string_view chat_options = {}) {
        return run_async(detail::chat_request<std::string_view>{messages, chat_options}, options,
                         std::forward<OnToken>(on_token), stop);
    }

    /** Writes the code between a prefix and a suffix as complete() does, on a thread of the
     * library. */
    template <class OnToken = std::nullptr_t>
    future<generation> complete_async(std::string_view prefix, std::string_view suffix,
                                      const generate_options &options = {},
                                      OnToken &&on_token = nullptr, const stop_signal &stop = {},
                                      const fim_context &context = {}) {
        return run_async(
            detail::fim_request<std::string_view, const fim_context &>{prefix, suffix, context},
            options, std::forward<OnToken>(on_token), stop);
    }

    /** Continues a text as a range of tokens, which has copies of text and options. */
    token_stream stream(std::string_view prompt, const generate_options &options = {},
                        stop_signal stop = {}) {
        return start(detail::text_request<std::string>{std::string(prompt)}, options,
                     std::move(stop));
    }

    /** Continues token ids as a range of tokens. */
    token_stream stream_from_ids(span<const std::uint32_t> ids,
                                 const generate_options &options = {}, stop_signal stop = {}) {
        using tokens = std::vector<std::uint32_t>;
        return start(detail::ids_request<tokens>{tokens(ids.begin(), ids.end())}, options,
                     std::move(stop));
    }

    /** Answers the last message of a conversation as a range of tokens. */
    token_stream stream_chat(std::string_view messages, const generate_options &options = {},
                             stop_signal stop = {}, std::string_view chat_options = {}) {
        return start(
            detail::chat_request<std::string>{std::string(messages), std::string(chat_options)},
            options, std::move(stop));
    }

    /** Writes the code between a prefix and a suffix as a range of tokens. */
    token_stream stream_complete(std::string_view prefix, std::string_view suffix,
                                 const generate_options &options = {}, stop_signal stop = {},
                                 fim_context context = {}) {
        return start(detail::fim_request<std::string, fim_context>{std::string(prefix),
                                                                   std::string(suffix),
                                                                   std::move(context)},
                     options, std::move(stop));
    }

    /** Stops the generation that runs, before its next token. Any thread may call it any time. */
    void cancel() const noexcept { mcandle_generator_cancel(get()); }

    /** Gives the tokens that were read and are kept. */
    result<std::vector<std::uint32_t>> context() const {
        return detail::call<std::vector<std::uint32_t>>([&](auto *context, auto *error) {
            return mcandle_generator_context(get(), context, error);
        });
    }

    /** Forgets what was read but for so many tokens. */
    result<void> truncate(std::size_t length) {
        return detail::call<void>(
            [&](auto *error) { return mcandle_generator_truncate(get(), length, error); });
    }

    /** Saves what was read, for load_session() at another time or in another process. */
    result<void> save_session(const std::filesystem::path &path) const {
        return detail::call<void>([&](auto *error) {
            return mcandle_generator_save_session(get(), detail::terminated(path).c_str(), error);
        });
    }

    /** Goes on from a file that save_session() wrote, with the same model and adapter. */
    result<void> load_session(const std::filesystem::path &path) {
        return detail::call<void>([&](auto *error) {
            return mcandle_generator_load_session(get(), detail::terminated(path).c_str(), error);
        });
    }

    /** Gives the logits of the token that follows a text, one for each id of the vocabulary. */
    result<std::vector<float>> next_logits(span<const std::uint32_t> ids) {
        return detail::call<std::vector<float>>([&](auto *logits, auto *error) {
            return mcandle_generator_next_logits(get(), ids.data(), ids.size(), logits, error);
        });
    }

    /** Gives the natural logarithm of the probability of each token of a text after the first. */
    result<std::vector<float>> logprobs(span<const std::uint32_t> ids) {
        return detail::call<std::vector<float>>([&](auto *logprobs, auto *error) {
            return mcandle_generator_logprobs(get(), ids.data(), ids.size(), logprobs, error);
        });
    }

    /** Gives the perplexity of a text, by a window that moves over it by a stride. */
    result<mcandle::perplexity> perplexity(span<const std::uint32_t> ids, std::size_t window,
                                           std::size_t stride) {
        return detail::call<mcandle::perplexity>([&](auto *perplexity, auto *error) {
            return mcandle_generator_perplexity(get(), ids.data(), ids.size(), window, stride,
                                                &perplexity->value, &perplexity->sum_nll,
                                                &perplexity->token_count, error);
        });
    }

    /** Gives a vector that stands for a text.
     *
     * @param ids The token ids of the text.
     * @param pooling How hidden states become one vector.
     * @param normalize Whether to scale the vector to length 1.
     */
    result<std::vector<float>> embed(span<const std::uint32_t> ids,
                                     pooling pooling = mcandle::pooling::mean,
                                     bool normalize = true) {
        return detail::call<std::vector<float>>([&](auto *embedding, auto *error) {
            return mcandle_generator_embed(get(), ids.data(), ids.size(), detail::number(pooling),
                                           normalize, embedding, error);
        });
    }

private:
    result<void> use_adapter(const mcandle_adapter *adapter) {
        return detail::call<void>(
            [&](auto *error) { return mcandle_generator_set_adapter(get(), adapter, error); });
    }

    result<void> use_draft_model(const mcandle_model *draft) {
        return detail::call<void>(
            [&](auto *error) { return mcandle_generator_set_draft_model(get(), draft, error); });
    }

    template <class Request, class OnToken>
    result<generation> run(const Request &request, const generate_options &options,
                           OnToken &on_token, const stop_signal &stop) {
        return detail::unwrap(detail::generate(get(), request, options, on_token, stop, thrown_));
    }

    template <class Request, class OnToken>
    future<generation> run_async(const Request &request, const generate_options &options,
                                 OnToken &&on_token, const stop_signal &stop) {
        auto cancel = [generator = share()] { mcandle_generator_cancel(generator.get()); };
        using task = detail::task<generation, chunk, std::decay_t<OnToken>, decltype(cancel)>;
        auto refusal = options.refusal();
        if (refusal || (refusal = request.refusal())) {
            return task::refuse(*std::move(refusal));
        }
        return task::run(
            std::make_unique<task>(std::forward<OnToken>(on_token), stop, cancel, thrown_),
            [&](void *self, auto *error) {
                return request.start(get(), options.get(), &task::tell_c, &task::complete, self,
                                     error);
            });
    }

    template <class Request>
    token_stream start(Request request, const generate_options &options, stop_signal stop) {
        return token_stream(share(), std::move(request), options, std::move(stop), thrown_);
    }

    std::shared_ptr<detail::caught> thrown_;
};

MCANDLE_NAMESPACE_END

#endif
