// Loading, saving and describing models, and their tokenizers.
#include "test.hpp"

#include <thread>

TEST(loading_tells_how_far_it_is) {
    std::uint64_t last = 0;
    std::uint64_t total = 0;
    std::size_t calls = 0;
    const auto model = mcandle::model::load(
        test::MODEL,
        mcandle::model_options().device(mcandle::device::cpu).dtype(mcandle::dtype::f32),
        [&](const mcandle::load_progress &progress) {
            CHECK(progress.loaded_bytes() >= last);
            last = progress.loaded_bytes();
            total = progress.total_bytes();
            calls++;
        });
    CHECK(calls > 2 && last == total && total > 0);
    CHECK(model.device() == mcandle::device::cpu && model.dtype() == mcandle::dtype::f32);
    CHECK(!model.is_quantized() && model.context_length() == 2048 && model.vocab_size() == 6144);
    CHECK(model.parameter_count() > 6000000);
    CHECK(model.summary().find("Qwen2") != std::string::npos);
}

TEST(loading_can_be_ended) {
    std::size_t calls = 0;
    FAILS(
        mcandle::model::load(test::MODEL, {}, [&](mcandle::load_progress) { return ++calls < 2; }),
        cancelled, "");
    CHECK(calls == 2);
    bool thrown = false;
    try {
        mcandle::model::load(test::MODEL, {},
                             [](const mcandle::load_progress &) { throw std::string("mine"); });
    } catch (const std::string &text) {
        thrown = text == "mine";
    }
    CHECK(thrown);
#if defined(__cpp_lib_jthread)
    std::stop_source source;
    calls = 0;
    FAILS(mcandle::model::load(
              test::MODEL, {},
              [&](const mcandle::load_progress &) {
                  calls++;
                  source.request_stop();
              },
              source.get_token()),
          cancelled, "");
    CHECK(calls == 1);
    FAILS(mcandle::model::load(test::MODEL, {}, nullptr, source.get_token()), cancelled, "");
#endif
}

TEST(models_are_quantised_at_load) {
    const auto options = mcandle::model_options().quantization(8, 64);
    CHECK(mcandle::model::load(test::MODEL, options).is_quantized());
    FAILS(mcandle::model::load(test::MODEL, mcandle::model_options().quantization(5, 64)),
          invalid_argument, "5");
}

TEST(models_are_saved) {
    const test::folder folder;
    test::model().save(folder / "model");
    CHECK(mcandle::model::load(folder / "model").parameter_count() ==
          test::model().parameter_count());
    test::model().save_gguf(folder / "model.gguf", mcandle::gguf_type::f16);
    const auto info = mcandle::model_info::inspect(folder / "model.gguf");
    CHECK(info.format() == "gguf" && info.architecture() == "qwen2");
    FAILS(test::model().save_gguf(folder.path(), mcandle::gguf_type::q4_0), invalid_format, "");
}

TEST(stored_models_are_inspected) {
    const auto info = mcandle::model_info::inspect(test::MODEL);
    CHECK(info.format() == "safetensors" && info.architecture() == "qwen2");
    CHECK(info.quantization().empty());
    CHECK(info.parameter_count() == test::model().parameter_count());
    CHECK(info.context_length() == 2048);
    CHECK(info.weights_size(mcandle::dtype::f32) == 2 * info.weights_size(mcandle::dtype::f16));
    CHECK(info.cache_size(100, mcandle::dtype::f32) >
          info.cache_size(100, mcandle::dtype::f32, mcandle::cache_type::int8));
    FAILS(info.weights_size(mcandle::dtype::automatic), invalid_argument, "dtype");
    CHECK(info.json().find("\"architecture\"") != std::string::npos);
    FAILS(mcandle::model_info::inspect("missing"), not_found, "missing");
}

TEST(tokenizers_outlive_their_model) {
    auto model = mcandle::model::load(test::MODEL);
    const auto tokenizer = model.tokenizer();
    model = mcandle::model(nullptr);
    const std::string text("let größe\0= 1;", 15);
    const auto ids = tokenizer.encode(text);
    CHECK(!ids.empty() && tokenizer.decode(ids) == text);
    const auto special = tokenizer.encode("a<|im_end|>", false);
    CHECK(tokenizer.decode(special) == "a" && tokenizer.decode(special, false) == "a<|im_end|>");
    CHECK(tokenizer.encode({}).empty() && tokenizer.decode({}).empty());
    FAILS(tokenizer.encode("\xff"), invalid_utf8, "text");
}
