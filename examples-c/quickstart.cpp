// Loads a model, completes a question, teaches the model SQL with LoRA, and asks again.
//
// Usage: quickstart [MODEL_DIR [DATA_DIR [OUTPUT_DIR [STEPS]]]]
#include "metal_candle.hpp"

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <string_view>

namespace {

// A row of test.jsonl, which holds what training never sees.
constexpr std::string_view QUESTION = "table: dogs_10\ncolumns: name, color, height\n"
                                      "Q: What is the height of each dog whose color is gold?\nA:";
constexpr std::string_view ANSWER = " SELECT height FROM dogs_10 WHERE color = 'gold'";

// Streams an answer to the question.
std::string ask(mcandle::generator &generator) {
    std::cout << QUESTION;
    auto stream = generator.stream(QUESTION, mcandle::generate_options().max_tokens(40));
    for (const mcandle::token &token : stream) {
        std::cout << token.text << std::flush;
    }
    const mcandle::generation generation = stream.finish();
    std::printf("\n  [%.1f ms to the first token, %.0f tokens/s]\n",
                1e3 * generation.time_to_first_token(), generation.tokens_per_second());
    return std::string(generation.text());
}

// Draws the progress bar.
void show(const mcandle::train_event &event) {
    if (event.kind() != mcandle::train_event_kind::step) {
        return;
    }
    constexpr std::size_t width = 24;
    const std::size_t done = width * event.step() / event.total_steps();
    const std::string bar = std::string(done, '#') + std::string(width - done, '.');
    std::printf("\r  [%s] %zu/%zu  loss %.3f  %5.0f tokens/s  %3.0f s left ", bar.c_str(),
                event.step(), event.total_steps(), event.loss(), event.tokens_per_second(),
                event.seconds_remaining());
    std::fflush(stdout);
}

bool run(const char *model_dir, const char *data_dir, const char *output_dir, std::size_t steps) {
    const auto model = mcandle::model::load(model_dir);
    std::cout << "metal-candle " << mcandle::version() << "\nmodel: " << model.summary() << "\n\n";
    auto generator = mcandle::generator::create(model);
    ask(generator);

    const auto data = mcandle::dataset::from_folder(data_dir, model);
    mcandle::train_options options;
    options.steps(steps)
        .batch_size(8)
        .rank(16)
        .alpha(32)
        .learning_rate(4e-3)
        .schedule(mcandle::schedule::cosine)
        .warmup_steps(steps / 25)
        .eval_every(steps)
        .eval_batches(0)
        .save_every(0)
        .output_dir(output_dir);
    auto trainer = mcandle::trainer::create(model, data, options);
    std::cout << "\ntraining " << trainer.adapter().parameter_count() << " LoRA weights on "
              << data.train.size() << " questions, " << data.train.token_count() << " tokens\n";
    const double first_loss = trainer.evaluate();
    const auto summary = trainer.train(show);
    std::printf("\n  validation loss %.3f -> %.3f in %.0f s, peak memory %.0f MB\n", first_loss,
                summary.validation_loss(), summary.seconds(),
                static_cast<double>(mcandle::memory_peak()) / 1e6);

    generator.set_adapter(mcandle::adapter::load(output_dir, model));
    std::cout << "  adapter saved to " << output_dir << "\n\n";
    const std::string answer = ask(generator);
    if (answer.rfind(" SELECT ", 0) != 0) {
        std::cerr << "quickstart: the answer after training is not SQL\n";
        return false;
    }
    if (answer == ANSWER) {
        std::cout << "  right: the question is one that training never saw\n";
    } else {
        std::cout << "  expected:" << ANSWER << "\n";
    }
    return true;
}

} // namespace

int main(int argc, char **argv) {
    try {
        const bool passed =
            run(argc > 1 ? argv[1] : "../assets/tiny-coder", argc > 2 ? argv[2] : "../assets/sql",
                argc > 3 ? argv[3] : "build/sql-adapter-cpp",
                argc > 4 ? std::strtoul(argv[4], nullptr, 10) : 180);
        return passed ? EXIT_SUCCESS : EXIT_FAILURE;
    } catch (const mcandle::error &error) {
        std::cerr << "\nquickstart: " << error.what() << "\n";
        return EXIT_FAILURE;
    }
}
