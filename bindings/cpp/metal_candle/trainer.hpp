/**
 * @file
 * Fine-tuning.
 */
#ifndef METAL_CANDLE_TRAINER_HPP
#define METAL_CANDLE_TRAINER_HPP

#include "metal_candle/checkpoint.hpp"
#include "metal_candle/dataset.hpp"
#include "metal_candle/model.hpp"
#include "metal_candle/train_event.hpp"
#include "metal_candle/train_options.hpp"

#include <cstddef>
#include <filesystem>
#include <optional>
#include <type_traits>
#include <utility>

MCANDLE_NAMESPACE_BEGIN

/** The rows of a training run; they need not outlive the call that takes them. */
class training_rows {
public:
    /** Rows to train on, without evaluation. */
    training_rows(const dataset &train) noexcept : train_(&train) {}

    /** Rows to train on, and rows to evaluate on. */
    training_rows(const dataset &train, const dataset &validation) noexcept
        : train_(&train), validation_(&validation) {}

    /** The rows of a folder, which are evaluated on where there are such. */
    training_rows(const dataset_folder &folder) noexcept
        : train_(&folder.train), validation_(folder.validation ? &*folder.validation : nullptr) {}

    /** Gives the rows to train on. */
    const dataset &train() const noexcept { return *train_; }

    /** Gives the rows to evaluate on; null where there are none. */
    const dataset *validation() const noexcept { return validation_; }

private:
    const dataset *train_;
    const dataset *validation_ = nullptr;
};

/**
 * Fine-tunes a model: an adapter beside it, or a copy of its weights. The model itself does not
 * change.
 *
 * It serves one call at a time; another call meanwhile fails with status::busy.
 */
class trainer : public detail::shared_handle<mcandle_trainer, mcandle_trainer_free> {
public:
    using shared_handle::shared_handle;

    /** Makes a trainer from the start: with a new adapter, or from the weights of the model. */
    static result<trainer> create(const model &model, const training_rows &rows,
                                  const train_options &options = {}) {
        return make(rows, options, [&](auto *train, auto *validation, auto *trainer, auto *error) {
            return mcandle_trainer_new(model.get(), train, validation, options.get(), trainer,
                                       error);
        });
    }

    /** Makes a trainer that goes on with an adapter, with a new optimizer and from step 0. */
    static result<trainer> from_adapter(const model &model, const training_rows &rows,
                                        const adapter &adapter, const train_options &options = {}) {
        return make(rows, options, [&](auto *train, auto *validation, auto *trainer, auto *error) {
            return mcandle_trainer_from_adapter(model.get(), train, validation, options.get(),
                                                adapter.get(), trainer, error);
        });
    }

    /** Makes a trainer that goes on where a checkpoint was written, with the model, rows and
     * options of the earlier run. */
    static result<trainer> resume(const model &model, const training_rows &rows,
                                  const std::filesystem::path &checkpoint,
                                  const train_options &options = {}) {
        return make(rows, options, [&](auto *train, auto *validation, auto *trainer, auto *error) {
            return mcandle_trainer_resume(model.get(), train, validation, options.get(),
                                          detail::terminated(checkpoint).c_str(), trainer, error);
        });
    }

    /**
     * Trains until all steps are done, or until it is stopped. A run that was stopped is no error:
     * its summary tells, and another call goes on.
     *
     * @param on_event Is told of each train_event on this thread. It returns nothing, or false to
     * stop; an exception that it throws stops the run and comes out of the call.
     * @param stop Stops the run within a step; in C++20 a std::stop_token.
     */
    template <class OnEvent = std::nullptr_t>
    result<train_summary> train(OnEvent &&on_event = nullptr, const stop_signal &stop = {}) {
        using function = std::remove_reference_t<OnEvent>;
        detail::listener<train_event, function> told(on_event, stop);
        [[maybe_unused]] const auto cancel =
            stop.on_request([trainer = get()] { mcandle_trainer_cancel(trainer); });
        auto outcome = detail::attempt_call<train_summary>([&](auto *summary, auto *error) {
            return mcandle_trainer_train(get(), &detail::tell<train_event, function>, &told,
                                         summary, error);
        });
        told.rethrow();
        return detail::unwrap(std::move(outcome));
    }

    /** Trains as train() does, on a thread of the library, which calls the callback too. Meanwhile
     * the trainer is busy. It may end before: the run goes on. */
    template <class OnEvent = std::nullptr_t>
    future<train_summary> train_async(OnEvent &&on_event = nullptr, const stop_signal &stop = {}) {
        auto cancel = [trainer = share()] { mcandle_trainer_cancel(trainer.get()); };
        using task =
            detail::task<train_summary, train_event, std::decay_t<OnEvent>, decltype(cancel)>;
        return task::run(
            std::make_unique<task>(std::forward<OnEvent>(on_event), stop, cancel, nullptr),
            [&](void *self, auto *error) {
                return mcandle_trainer_train_async(get(), &task::tell_c, &task::complete, self,
                                                   error);
            });
    }

    /** Stops the training or evaluation that runs, within a step. Any thread may call it at any
     * time. */
    void cancel() const noexcept { mcandle_trainer_cancel(get()); }

    /** Evaluates the validation rows with what is trained so far: the mean loss, NaN where there
     * are no such rows. */
    result<double> evaluate() const {
        return detail::call<double>(
            [&](auto *loss, auto *error) { return mcandle_trainer_evaluate(get(), loss, error); });
    }

    /** Gives the number of steps of the whole run. */
    std::size_t total_steps() const noexcept { return mcandle_trainer_total_steps(get()); }

    /** Gives a copy of the adapter as trained so far. */
    result<mcandle::adapter> adapter() const {
        return detail::call<mcandle::adapter>([&](auto *adapter, auto *error) {
            return mcandle_trainer_adapter(get(), adapter, error);
        });
    }

    /** Gives the model as trained so far: with the adapter merged into its weights, or with its new
     * weights. */
    result<mcandle::model> model() const {
        return detail::call<mcandle::model>(
            [&](auto *model, auto *error) { return mcandle_trainer_model(get(), model, error); });
    }

    /** Writes a checkpoint, from which resume() goes on. */
    result<void> save_checkpoint(const std::filesystem::path &path) const {
        return detail::call<void>([&](auto *error) {
            return mcandle_trainer_save_checkpoint(get(), detail::terminated(path).c_str(), error);
        });
    }

private:
    template <class Call>
    static result<trainer> make(const training_rows &rows, const train_options &options,
                                Call &&call) {
        if (auto refusal = options.refusal()) {
            return detail::fail<trainer>(*std::move(refusal));
        }
        const mcandle_dataset *validation = nullptr;
        if (rows.validation() != nullptr) {
            validation = rows.validation()->get();
            if (validation == nullptr) {
                return detail::fail<trainer>(detail::moved_from("validation data set"));
            }
        }
        return detail::call<trainer>([&](auto *trainer, auto *error) {
            return call(rows.train().get(), validation, trainer, error);
        });
    }
};

MCANDLE_NAMESPACE_END

#endif
