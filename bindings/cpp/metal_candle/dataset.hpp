/**
 * @file
 * Rows to train on.
 */
#ifndef METAL_CANDLE_DATASET_HPP
#define METAL_CANDLE_DATASET_HPP

#include "metal_candle/callback.hpp"
#include "metal_candle/dataset_options.hpp"
#include "metal_candle/model.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

MCANDLE_NAMESPACE_BEGIN

/** What the rows of a data set are. */
enum class row_kind : std::int32_t {
    sample = MCANDLE_ROW_KIND_SAMPLE, /**< Texts to imitate. */
    pair = MCANDLE_ROW_KIND_PAIR,     /**< Two answers to a prompt, of which one is preferred. */
};

/** A row of a data set that was left out. */
struct skipped_row {
    std::size_t line;   /**< Its line in the file, or its number, from 1. */
    std::string reason; /**< Why it was left out. */
};

struct dataset_folder;

/** Tokenised rows to train on. It is never written, so any number of trainers can share one. */
class dataset : public handle<mcandle_dataset, mcandle_dataset_free> {
public:
    using handle::handle;

    /**
     * Reads a data set from a JSONL file; the C header tells what a row is.
     *
     * @param path The file.
     * @param model The model that will be trained.
     * @param options How the file is read.
     */
    static result<dataset> from_jsonl(const std::filesystem::path &path, const model &model,
                                      const dataset_options &options = {}) {
        return make(options, [&](auto *dataset, auto *error) {
            return mcandle_dataset_from_jsonl(detail::terminated(path).c_str(), model.get(),
                                              options.get(), dataset, error);
        });
    }

    /** Reads the data sets of a folder: train.jsonl, and where they are there valid.jsonl (or
     * validation.jsonl) and test.jsonl. */
    static result<dataset_folder> from_folder(const std::filesystem::path &path, const model &model,
                                              const dataset_options &options = {});

    /**
     * Makes a data set of the rows that a function gives.
     *
     * @param next Gives a std::optional of the JSON of the next row, as it would be a line of a
     * file; nothing at the end. An exception that it throws comes out of this call.
     * @param model The model that will be trained.
     * @param options How the rows are read.
     */
    template <class Next>
    static result<dataset> from_callback(Next &&next, const model &model,
                                         const dataset_options &options = {}) {
        using row = std::decay_t<decltype(*next())>;
        struct {
            std::remove_reference_t<Next> &next;
            std::optional<row> current;
            detail::caught caught;
        } rows{next, {}, {}};
        const mcandle_row_callback callback = [](const char **data, std::size_t *length,
                                                 void *self) noexcept -> std::int32_t {
            auto &from = *static_cast<decltype(rows) *>(self);
            if (!from.caught.run([&] { from.current = from.next(); })) {
                return -1;
            }
            if (!from.current) {
                return 0;
            }
            const std::string_view text(*from.current);
            *data = text.data();
            *length = text.size();
            return 1;
        };
        auto outcome = attempt_make(options, [&](auto *dataset, auto *error) {
            return mcandle_dataset_from_callback(callback, &rows, model.get(), options.get(),
                                                 dataset, error);
        });
        rows.caught.rethrow();
        return detail::unwrap(std::move(outcome));
    }

    /** Makes a data set of the rows of a range, each the JSON that would be a line of a file. */
    template <class Range>
    static result<dataset> from_rows(const Range &rows, const model &model,
                                     const dataset_options &options = {}) {
        auto row = std::begin(rows);
        const auto end = std::end(rows);
        return from_callback(
            [&]() -> std::optional<std::string_view> {
                return row == end ? std::nullopt : std::optional<std::string_view>(*row++);
            },
            model, options);
    }

    /** Tells what the rows are. */
    mcandle::row_kind row_kind() const noexcept {
        return static_cast<mcandle::row_kind>(mcandle_dataset_row_kind(get()));
    }

    /** Gives the number of rows. */
    std::size_t size() const noexcept { return mcandle_dataset_length(get()); }

    /** Gives the number of tokens in all rows together. */
    std::size_t token_count() const noexcept { return mcandle_dataset_token_count(get()); }

    /** Gives the number of tokens that are scored, in all rows together. */
    std::size_t target_token_count() const noexcept {
        return mcandle_dataset_target_token_count(get());
    }

    /** Gives the number of rows that were cut to the most tokens of a row. */
    std::size_t truncated_count() const noexcept { return mcandle_dataset_truncated_count(get()); }

    /** Gives the number of rows that were left out. */
    std::size_t skipped_count() const noexcept { return mcandle_dataset_skipped_count(get()); }

    /** Gives the first of the rows that were left out, at most 100. */
    std::vector<skipped_row> skipped() const {
        std::vector<skipped_row> rows;
        for (std::size_t i = 0; mcandle_dataset_skipped_line(get(), i) != 0; i++) {
            rows.push_back(
                {mcandle_dataset_skipped_line(get(), i), mcandle_dataset_skipped_reason(get(), i)});
        }
        return rows;
    }

private:
    template <class Call>
    static expected<dataset> attempt_make(const dataset_options &options, Call &&call) {
        if (auto refusal = options.refusal()) {
            return *std::move(refusal);
        }
        return detail::attempt_call<dataset>(std::forward<Call>(call));
    }

    template <class Call> static result<dataset> make(const dataset_options &options, Call &&call) {
        return detail::unwrap(attempt_make(options, std::forward<Call>(call)));
    }
};

/** The data sets of a folder. */
struct dataset_folder {
    dataset train;                     /**< The rows to train on. */
    std::optional<dataset> validation; /**< Those to evaluate on while training. */
    std::optional<dataset> test;       /**< Those to evaluate on at the end. */
};

inline result<dataset_folder> dataset::from_folder(const std::filesystem::path &path,
                                                   const model &model,
                                                   const dataset_options &options) {
    mcandle_dataset *validation = nullptr;
    mcandle_dataset *test = nullptr;
    auto train = attempt_make(options, [&](auto *dataset, auto *error) {
        return mcandle_dataset_from_folder(detail::terminated(path).c_str(), model.get(),
                                           options.get(), dataset, &validation, &test, error);
    });
    if (!train) {
        return detail::fail<dataset_folder>(train.error());
    }
    dataset_folder folder{*std::move(train), std::nullopt, std::nullopt};
    if (validation != nullptr) {
        folder.validation.emplace(validation);
    }
    if (test != nullptr) {
        folder.test.emplace(test);
    }
    return folder;
}

MCANDLE_NAMESPACE_END

#endif
