// Work on threads of the library: futures, and what becomes of callbacks and exceptions.
#include "test.hpp"

#include <algorithm>
#include <memory>
#include <thread>

using test::tokens;

namespace {

mcandle::generate_options most(std::size_t max_tokens) {
    return mcandle::generate_options().max_tokens(max_tokens);
}

} // namespace

TEST(futures_give_what_is_generated) {
    auto generator = mcandle::generator::create(test::model());
    const auto expected = test::reference(8);
    auto alive = std::make_shared<std::thread::id>();
    tokens ids;
    auto future = generator.generate_async(
        std::string(test::PROMPT), most(8),
        [&ids, alive, owned = std::make_unique<int>(0)](const mcandle::chunk &chunk) {
            *alive = std::this_thread::get_id();
            ids.push_back(chunk.token());
        });
    const auto generation = future.get();
    CHECK(test::to_vector(generation.tokens()) == expected && ids == expected);
    CHECK(*alive != std::this_thread::get_id() && alive.use_count() == 1);

    const auto prompt = test::model().tokenizer().encode(test::PROMPT);
    CHECK(test::to_vector(generator.generate_from_ids_async(prompt, most(8)).get().tokens()) ==
          expected);
    const std::string messages = mcandle::conversation().user("hello").json();
    const auto answer = test::to_vector(generator.chat(messages, most(4)).tokens());
    CHECK(test::to_vector(generator.chat_async(messages, most(4)).get().tokens()) == answer);
    const auto middle = test::to_vector(generator.complete("a =", ";", most(4)).tokens());
    CHECK(test::to_vector(generator.complete_async("a =", ";", most(4)).get().tokens()) == middle);
}

TEST(futures_throw_what_failed) {
    auto generator = mcandle::generator::create(test::model());
    auto alive = std::make_shared<int>(0);
    auto refused =
        generator.generate_async(test::PROMPT, most(0), [alive](const mcandle::chunk &) {});
    FAILS(refused.get(), invalid_argument, "max_tokens");
    FAILS(generator.generate_async(test::PROMPT, most(1).stop("\xff")).get(), invalid_utf8, "stop");
    CHECK(alive.use_count() == 1);

    int number = 0;
    auto thrown = generator.generate_async(test::PROMPT, most(64),
                                           [alive](const mcandle::chunk &) { throw 7; });
    try {
        thrown.get();
    } catch (const int caught) {
        number = caught;
    }
    CHECK(number == 7 && alive.use_count() == 1);

    generator.set_logits_processor([](auto, auto) { throw 8; });
    try {
        generator.generate_async(test::PROMPT, most(4)).get();
    } catch (const int caught) {
        number = caught;
    }
    CHECK(number == 8);
    auto moved = std::move(generator);
    FAILS(generator.generate_async(test::PROMPT).get(), null_pointer, "generator");
    FAILS(mcandle::model::load_async("missing").get(), not_found, "missing");
}

TEST(work_on_another_thread_is_stopped) {
    auto generator = mcandle::generator::create(test::model());
    std::promise<void> started;
    auto future = generator.generate_async(test::PROMPT, most(1900).ignore_eos(true),
                                           [&](const mcandle::chunk &chunk) {
                                               if (chunk.index() == 0) {
                                                   started.set_value();
                                               }
                                           });
    started.get_future().wait();
    FAILS(generator.generate("x"), busy, "in use");
    generator.cancel();
    CHECK(future.get().finish_reason() == mcandle::finish_reason::cancelled);

    // The generation goes on without its generator.
    future = generator.generate_async(test::PROMPT, most(8));
    generator = mcandle::generator(nullptr);
    CHECK(test::to_vector(future.get().tokens()) == test::reference(8));
#if defined(__cpp_lib_jthread)
    generator = mcandle::generator::create(test::model());
    std::stop_source source;
    std::promise<void> begun;
    future = generator.generate_async(
        test::PROMPT, most(1900).ignore_eos(true),
        [&](const mcandle::chunk &chunk) {
            if (chunk.index() == 0) {
                begun.set_value();
            }
        },
        source.get_token());
    begun.get_future().wait();
    source.request_stop();
    CHECK(future.get().finish_reason() == mcandle::finish_reason::cancelled);
#endif
}

TEST(models_load_on_another_thread) {
    std::uint64_t last = 0;
    auto future =
        mcandle::model::load_async(test::MODEL, {}, [&](const mcandle::load_progress &progress) {
            last = progress.loaded_bytes();
        });
    CHECK(future.get().vocab_size() == test::model().vocab_size() && last > 0);
    auto ended = mcandle::model::load_async(test::MODEL, {},
                                            [](const mcandle::load_progress &) { return false; });
    FAILS(ended.get(), cancelled, "");
    int number = 0;
    try {
        mcandle::model::load_async(test::MODEL, {}, [](const mcandle::load_progress &) {
            throw 7;
        }).get();
    } catch (const int thrown) {
        number = thrown;
    }
    CHECK(number == 7);
}

TEST(batches_run_on_another_thread) {
    auto batch = mcandle::batch::create(test::model(), 2);
    batch.push(test::PROMPT, most(8));
    std::size_t chunks = 0;
    const auto results = batch.run_async([&](const mcandle::chunk &) { chunks++; }).get();
    CHECK(results.size() == 1 && chunks == 8);
    CHECK(test::to_vector(results[0].generation().tokens()) == test::reference(8));

    batch.push(test::PROMPT, most(1900).ignore_eos(true));
    batch.push(test::PROMPT, most(1900).ignore_eos(true));
    int number = 0;
    auto future = batch.run_async([](const mcandle::chunk &) { throw 7; });
    try {
        future.get();
    } catch (const int thrown) {
        number = thrown;
    }
    CHECK(number == 7 && batch.size() == 0);
}

TEST(trainers_train_on_another_thread) {
    const auto rows = mcandle::dataset::from_rows(std::vector<std::string>{"{\"text\": \"a b c\"}"},
                                                  test::model());
    const auto options = mcandle::train_options().steps(2).rank(1);
    auto trainer = mcandle::trainer::create(test::model(), rows, options);
    std::size_t steps = 0;
    auto future = trainer.train_async([&](const mcandle::train_event &event) {
        steps += event.kind() == mcandle::train_event_kind::step;
    });
    CHECK(future.get().steps() == 2 && steps == 2);

    trainer = mcandle::trainer::create(test::model(), rows, options);
    int number = 0;
    try {
        trainer.train_async([](const mcandle::train_event &) { throw 7; }).get();
    } catch (const int thrown) {
        number = thrown;
    }
    CHECK(number == 7 && trainer.train().steps() == 2);
}
