/**
 * @file
 * Models.
 */
#ifndef METAL_CANDLE_MODEL_HPP
#define METAL_CANDLE_MODEL_HPP

#include "metal_candle/adapter.hpp"
#include "metal_candle/callback.hpp"
#include "metal_candle/device.hpp"
#include "metal_candle/fim.hpp"
#include "metal_candle/model_options.hpp"
#include "metal_candle/span.hpp"
#include "metal_candle/task.hpp"
#include "metal_candle/tokenizer.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

MCANDLE_NAMESPACE_BEGIN

/** The number format of the weights in a GGUF file. */
enum class gguf_type : std::int32_t {
    f16 = MCANDLE_GGUF_F16,   /**< 16-bit floats of IEEE 754. */
    bf16 = MCANDLE_GGUF_BF16, /**< 16-bit brain floats. */
    q8_0 = MCANDLE_GGUF_Q8_0, /**< 8.5 bits a weight. */
    q6_k = MCANDLE_GGUF_Q6_K, /**< 6.6 bits a weight. */
    q4_k = MCANDLE_GGUF_Q4_K, /**< About 4.8 bits a weight. */
    q4_0 = MCANDLE_GGUF_Q4_0, /**< 4.5 bits a weight. */
};

/** How far a model is loaded. */
class load_progress {
public:
    /** Makes it of what C tells. */
    load_progress(std::uint64_t loaded_bytes, std::uint64_t total_bytes) noexcept
        : loaded_bytes_(loaded_bytes), total_bytes_(total_bytes) {}

    /** Gives the bytes of the weights that were read. */
    std::uint64_t loaded_bytes() const noexcept { return loaded_bytes_; }

    /** Gives all bytes of the weights. */
    std::uint64_t total_bytes() const noexcept { return total_bytes_; }

private:
    std::uint64_t loaded_bytes_;
    std::uint64_t total_bytes_;
};

/**
 * A loaded model.
 *
 * Its weights are never written: any number of generators and trainers, on any threads, can use one
 * at the same time. They keep what they need of it, so it may end before them.
 */
class model : public handle<mcandle_model, mcandle_model_free> {
public:
    using handle::handle;

    /**
     * Loads a model.
     *
     * @param path A directory with config.json, tokenizer.json and weights, or a GGUF file.
     * @param options How it is loaded.
     * @param on_progress Hears of a load_progress before each tensor, and at the end. It returns
     * nothing, or false to end the loading with status::cancelled.
     * @param stop Ends the loading with status::cancelled; in C++20 a std::stop_token.
     */
    template <class OnProgress = std::nullptr_t>
    static result<model> load(const std::filesystem::path &path, const model_options &options = {},
                              OnProgress &&on_progress = nullptr, stop_signal stop = {});

    /** Loads a model as load() does, on a thread of the library, which calls the callback too. */
    template <class OnProgress = std::nullptr_t>
    static future<model>
    load_async(const std::filesystem::path &path, const model_options &options = {},
               OnProgress &&on_progress = nullptr, const stop_signal &stop = {});

    /** Lets the model read a few tokens and forget them, so that the first real one comes as fast
     * as the others. */
    result<void> warm_up() const {
        return detail::call<void>([&](auto *error) { return mcandle_model_warm_up(get(), error); });
    }

    /** Saves the model to a directory that this library and transformers load, which appears whole
     * or not at all. */
    result<void> save(const std::filesystem::path &path) const {
        return detail::call<void>([&](auto *error) {
            return mcandle_model_save(get(), detail::terminated(path).c_str(), error);
        });
    }

    /** Saves the model as a GGUF file, which llama.cpp runs. */
    result<void> save_gguf(const std::filesystem::path &path, gguf_type type) const {
        return detail::call<void>([&](auto *error) {
            return mcandle_model_save_gguf(get(), detail::terminated(path).c_str(),
                                           detail::number(type), error);
        });
    }

    /** Makes a model with an adapter's change added to its weights; this one stays as it is. */
    result<model> merge(const adapter &adapter) const {
        return detail::call<model>([&](auto *merged, auto *error) {
            return mcandle_model_merge(get(), adapter.get(), merged, error);
        });
    }

    /** Describes the model in one line. */
    result<std::string> summary() const {
        return detail::call<std::string>(
            [&](auto *text, auto *error) { return mcandle_model_summary(get(), text, error); });
    }

    /** Gives the number of parameters; a tied embedding counts once. */
    std::uint64_t parameter_count() const noexcept { return mcandle_model_parameter_count(get()); }

    /** Gives the most tokens that prompt and generated text can have together. */
    std::size_t context_length() const noexcept { return mcandle_model_context_length(get()); }

    /** Gives the number of token ids that the model knows. */
    std::size_t vocab_size() const noexcept { return mcandle_model_vocab_size(get()); }

    /** Tells whether weights are kept in fewer bits than those of a float. */
    bool is_quantized() const noexcept { return mcandle_model_is_quantized(get()); }

    /** Gives the device that the model was loaded to. */
    mcandle::device device() const noexcept {
        return static_cast<mcandle::device>(mcandle_model_device(get()));
    }

    /** Gives the number format that the model computes in. */
    mcandle::dtype dtype() const noexcept {
        return static_cast<mcandle::dtype>(mcandle_model_dtype(get()));
    }

    /** Gives the tokenizer, which may outlive the model. */
    result<mcandle::tokenizer> tokenizer() const {
        return detail::call<mcandle::tokenizer>([&](auto *tokenizer, auto *error) {
            return mcandle_model_tokenizer(get(), tokenizer, error);
        });
    }

    /** Tells whether the model comes with a chat template. */
    bool has_chat_template() const noexcept { return mcandle_model_has_chat_template(get()); }

    /**
     * Writes a conversation as the text that the model expects.
     *
     * @param messages A JSON array of messages, such as conversation::json() gives.
     * @param chat_options A JSON object with "tools", "add_generation_prompt",
     * "continue_final_message" and "arguments", all optional.
     */
    result<std::string> apply_chat_template(std::string_view messages,
                                            std::string_view chat_options = {}) const {
        return detail::call<std::string>([&](auto *text, auto *error) {
            return mcandle_model_apply_chat_template(get(), messages.data(), messages.size(),
                                                     detail::data_or_null(chat_options),
                                                     chat_options.size(), text, error);
        });
    }

    /**
     * Makes the prompt for the code between a prefix and a suffix, for
     * generator::generate_from_ids().
     *
     * @param prefix The code before.
     * @param suffix The code after.
     * @param context What else of the repository the model is shown.
     */
    result<std::vector<std::uint32_t>> fim_prompt(std::string_view prefix, std::string_view suffix,
                                                  const fim_context &context = {}) const {
        using tokens = std::vector<std::uint32_t>;
        if (auto refusal = context.refusal()) {
            return detail::fail<tokens>(*std::move(refusal));
        }
        return detail::call<tokens>([&](auto *ids, auto *error) {
            return mcandle_model_fim_prompt(get(), prefix.data(), prefix.size(), suffix.data(),
                                            suffix.size(), context.get(), ids, error);
        });
    }

    /** Gives the tokens that end a middle, for generate_options::stop_token_id(). */
    result<std::vector<std::uint32_t>> fim_stop_tokens() const {
        return detail::call<std::vector<std::uint32_t>>([&](auto *tokens, auto *error) {
            return mcandle_model_fim_stop_tokens(get(), tokens, error);
        });
    }

    /**
     * Loads an adapter, under a name. It is not active, and its weight is 1.
     *
     * All adapters that are active change what is generated with the model, together and each with
     * its weight, unless a generator or batch has an adapter of its own. Any thread may change them
     * while others generate; the next generation has the new ones.
     */
    result<void> load_adapter(std::string_view name, const std::filesystem::path &path) const {
        return detail::call<void>([&](auto *error) {
            return mcandle_model_load_adapter(get(), detail::terminated(name).c_str(),
                                              detail::terminated(path).c_str(), error);
        });
    }

    /** Adds an adapter, such as one that was just trained, under a name. */
    result<void> add_adapter(std::string_view name, const adapter &adapter) const {
        return detail::call<void>([&](auto *error) {
            return mcandle_model_add_adapter(get(), detail::terminated(name).c_str(), adapter.get(),
                                             error);
        });
    }

    /** Removes an adapter. What is being generated with it goes on. */
    result<void> unload_adapter(std::string_view name) const {
        return detail::call<void>([&](auto *error) {
            return mcandle_model_unload_adapter(get(), detail::terminated(name).c_str(), error);
        });
    }

    /** Makes an adapter active, beside those that are. */
    result<void> activate_adapter(std::string_view name) const {
        return detail::call<void>([&](auto *error) {
            return mcandle_model_activate_adapter(get(), detail::terminated(name).c_str(), error);
        });
    }

    /** Makes an adapter inactive. It stays loaded, with its weight. */
    result<void> deactivate_adapter(std::string_view name) const {
        return detail::call<void>([&](auto *error) {
            return mcandle_model_deactivate_adapter(get(), detail::terminated(name).c_str(), error);
        });
    }

    /** Makes these adapters active and all others inactive, in one step. */
    result<void> set_active_adapters(span<const std::string_view> names) const {
        std::vector<std::string> texts;
        for (const std::string_view name : names) {
            texts.push_back(detail::terminated(name));
        }
        std::vector<const char *> pointers;
        for (const std::string &text : texts) {
            pointers.push_back(text.c_str());
        }
        return detail::call<void>([&](auto *error) {
            return mcandle_model_set_active_adapters(get(), pointers.data(), pointers.size(),
                                                     error);
        });
    }

    /** Sets how much of an adapter acts where it is active: 1 for the adapter as it is. */
    result<void> set_adapter_weight(std::string_view name, double weight) const {
        return detail::call<void>([&](auto *error) {
            return mcandle_model_set_adapter_weight(get(), detail::terminated(name).c_str(), weight,
                                                    error);
        });
    }

    /** Gives one of the adapters of the model, which may outlive its place among them. */
    result<adapter> get_adapter(std::string_view name) const {
        return detail::call<adapter>([&](auto *adapter, auto *error) {
            return mcandle_model_get_adapter(get(), detail::terminated(name).c_str(), adapter,
                                             error);
        });
    }

    /** Lists the adapters of the model, in the order of their names. */
    result<std::vector<adapter_entry>> list_adapters() const;

    /** Lists the adapters of the model as a JSON array of objects. */
    result<std::string> list_adapters_json() const;

private:
    using adapter_list = handle<mcandle_adapter_list, mcandle_adapter_list_free>;

    expected<adapter_list> adapters() const {
        return detail::attempt_call<adapter_list>([&](auto *list, auto *error) {
            return mcandle_model_list_adapters(get(), list, error);
        });
    }
};

template <class OnProgress>
result<model> model::load(const std::filesystem::path &path, const model_options &options,
                          OnProgress &&on_progress, stop_signal stop) {
    using listener = detail::listener<load_progress, std::remove_reference_t<OnProgress>>;
    listener told(on_progress, std::move(stop));
    auto made = options.make();
    mcandle_model_options_set_progress(
        made.get(),
        [](std::uint64_t loaded, std::uint64_t total, void *self) noexcept {
            return static_cast<listener *>(self)->tell(load_progress(loaded, total));
        },
        &told);
    auto outcome = detail::attempt_call<model>([&](auto *model, auto *error) {
        return mcandle_model_load(detail::terminated(path).c_str(), made.get(), model, error);
    });
    told.rethrow();
    return detail::unwrap(std::move(outcome));
}

template <class OnProgress>
future<model> model::load_async(const std::filesystem::path &path, const model_options &options,
                                OnProgress &&on_progress, const stop_signal &stop) {
    auto cancel = [] {};
    using task = detail::task<model, load_progress, std::decay_t<OnProgress>, decltype(cancel)>;
    auto made = options.make();
    return task::run(
        std::make_unique<task>(std::forward<OnProgress>(on_progress), stop, cancel, nullptr),
        [&](void *self, auto *error) {
            mcandle_model_options_set_progress(
                made.get(),
                [](std::uint64_t loaded, std::uint64_t total, void *told) noexcept {
                    return static_cast<task *>(told)->tell(load_progress(loaded, total));
                },
                self);
            return mcandle_model_load_async(detail::terminated(path).c_str(), made.get(),
                                            &task::complete, self, error);
        });
}

inline result<std::vector<adapter_entry>> model::list_adapters() const {
    using entries = std::vector<adapter_entry>;
    const auto list = adapters();
    if (!list) {
        return detail::fail<entries>(list.error());
    }
    const mcandle_adapter_list *c = list->get();
    entries found;
    for (std::size_t i = 0; i < mcandle_adapter_list_length(c); i++) {
        const auto name = detail::text_of(
            [&](std::size_t *length) { return mcandle_adapter_list_name(c, i, length); });
        found.push_back({std::string(name), mcandle_adapter_list_rank(c, i),
                         mcandle_adapter_list_parameter_count(c, i),
                         mcandle_adapter_list_use_dora(c, i), mcandle_adapter_list_is_active(c, i),
                         mcandle_adapter_list_weight(c, i)});
    }
    return found;
}

inline result<std::string> model::list_adapters_json() const {
    const auto list = adapters();
    if (!list) {
        return detail::fail<std::string>(list.error());
    }
    return std::string(detail::text_of(
        [&](std::size_t *length) { return mcandle_adapter_list_json(list->get(), length); }));
}

inline result<adapter> adapter::load(const std::filesystem::path &path, const model &model) {
    return detail::call<adapter>([&](auto *adapter, auto *error) {
        return mcandle_adapter_load(detail::terminated(path).c_str(), model.get(), adapter, error);
    });
}

MCANDLE_NAMESPACE_END

#endif
