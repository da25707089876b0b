// Generating a text: callbacks, stopping, processors of logits, what was read, and scores.
#include "test.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <thread>

using test::tokens;

namespace {

mcandle::generate_options most(std::size_t max_tokens) {
    return mcandle::generate_options().max_tokens(max_tokens);
}

tokens prompt_ids() { return test::model().tokenizer().encode(test::PROMPT); }

} // namespace

TEST(tokens_are_those_of_c) {
    auto generator = mcandle::generator::create(test::model());
    const auto expected = test::reference(24);
    std::string text;
    tokens ids;
    const auto generation = generator.generate(
        test::PROMPT, most(24).top_logprobs(2), [&](const mcandle::chunk &chunk) {
            CHECK(chunk.index() == ids.size() && chunk.sequence() == 0);
            CHECK(chunk.top_tokens().size() == 2 && chunk.top_tokens()[0] == chunk.token());
            CHECK(chunk.top_logprobs()[0] == chunk.logprob() && chunk.logprob() <= 0);
            ids.push_back(chunk.token());
            text += chunk.text();
        });
    CHECK(ids == expected && test::to_vector(generation.tokens()) == expected);
    CHECK(text == generation.text() && generation.logprobs().size() == expected.size());
    CHECK(generation.finish_reason() == mcandle::finish_reason::length);
    CHECK(generation.prompt_tokens() == prompt_ids().size() && generation.cached_tokens() == 0);
    CHECK(generation.time_to_first_token() > 0 && generation.tokens_per_second() > 0);
    CHECK(generation.stop_string().empty() && generation.drafted_tokens() == 0);
    CHECK(generation.accepted_tokens() == 0);

    const auto from_ids = generator.generate_from_ids(prompt_ids(), most(24));
    CHECK(test::to_vector(from_ids.tokens()) == expected && from_ids.cached_tokens() > 0);
}

TEST(text_ends_at_stop_strings) {
    auto generator = mcandle::generator::create(test::model());
    const auto whole = std::string(generator.generate(test::PROMPT, most(24)).text());
    const std::string stop = whole.substr(whole.size() / 2, 2);
    const auto generation = generator.generate(test::PROMPT, most(24).stop(stop));
    CHECK(generation.finish_reason() == mcandle::finish_reason::stop_string);
    CHECK(generation.stop_string() == stop &&
          generation.text() == whole.substr(0, whole.find(stop)));
}

TEST(callbacks_stop_a_generation) {
    auto generator = mcandle::generator::create(test::model());
    std::size_t calls = 0;
    const auto stopped = generator.generate(test::PROMPT, most(64),
                                            [&](const mcandle::chunk &) { return ++calls < 3; });
    CHECK(stopped.finish_reason() == mcandle::finish_reason::cancelled);
    CHECK(stopped.tokens().size() == 3 && calls == 3);

    calls = 0;
    const auto cancelled = generator.generate(test::PROMPT, most(64), [&](mcandle::chunk) {
        calls++;
        generator.cancel();
    });
    CHECK(cancelled.finish_reason() == mcandle::finish_reason::cancelled && calls == 1);
}

TEST(exceptions_of_callbacks_come_out_of_the_call) {
    auto generator = mcandle::generator::create(test::model());
    std::size_t calls = 0;
    bool thrown = false;
    try {
        generator.generate(test::PROMPT, most(64), [&](const mcandle::chunk &) {
            if (++calls == 2) {
                throw std::unique_ptr<int>(new int(7));
            }
        });
    } catch (const std::unique_ptr<int> &number) {
        thrown = *number == 7;
    }
    CHECK(thrown && calls == 2);
    CHECK(test::to_vector(generator.generate(test::PROMPT, most(4)).tokens()) ==
          test::reference(4));
}

TEST(callbacks_cannot_use_their_generator) {
    auto generator = mcandle::generator::create(test::model());
    bool refused = false;
    generator.generate(test::PROMPT, most(1), [&](const mcandle::chunk &) {
        FAILS(generator.generate("x"), busy, "in use");
        FAILS(generator.context(), busy, "in use");
        refused = true;
    });
    CHECK(refused);
}

TEST(another_thread_cancels) {
    auto generator = mcandle::generator::create(test::model());
    std::thread other;
    const auto generation = generator.generate(
        test::PROMPT, most(1900).ignore_eos(true), [&](const mcandle::chunk &chunk) {
            if (chunk.index() == 0) {
                other = std::thread([&] { generator.cancel(); });
            }
        });
    other.join();
    CHECK(generation.finish_reason() == mcandle::finish_reason::cancelled);
    CHECK(generation.tokens().size() < 1900);
}

#if defined(__cpp_lib_jthread)
TEST(a_stop_token_stops_within_a_token) {
    auto generator = mcandle::generator::create(test::model());
    std::stop_source source;
    std::size_t calls = 0;
    const auto stop_at_two = [&](const mcandle::chunk &) {
        if (++calls == 2) {
            source.request_stop();
        }
    };
    const auto stopped =
        generator.generate(test::PROMPT, most(64), stop_at_two, source.get_token());
    CHECK(stopped.finish_reason() == mcandle::finish_reason::cancelled);
    CHECK(stopped.tokens().size() == 2 && calls == 2);

    // One that was requested before: no callback hears of anything.
    const auto none =
        generator.generate_from_ids(prompt_ids(), most(64), stop_at_two, source.get_token());
    CHECK(none.finish_reason() == mcandle::finish_reason::cancelled && calls == 2);

    std::stop_source another;
    std::jthread other;
    const auto generation = generator.generate(
        test::PROMPT, most(1900).ignore_eos(true),
        [&](const mcandle::chunk &chunk) {
            if (chunk.index() == 0) {
                other = std::jthread([&] { another.request_stop(); });
            }
        },
        another.get_token());
    CHECK(generation.finish_reason() == mcandle::finish_reason::cancelled);
}
#endif

TEST(processors_change_logits) {
    auto generator = mcandle::generator::create(test::model());
    const auto expected = test::reference(2);
    auto alive = std::make_shared<int>(0);
    // It moves and does not copy, as what owns something does.
    generator.set_logits_processor(
        [alive, banned = std::make_unique<std::uint32_t>(expected[0])](
            mcandle::span<const std::uint32_t> ids, mcandle::span<float> logits) {
            CHECK(!ids.empty() && logits.size() == test::model().vocab_size());
            logits[*banned] = -INFINITY;
            ++*alive;
        });
    CHECK(alive.use_count() == 2);
    CHECK(generator.generate(test::PROMPT, most(1)).tokens()[0] != expected[0]);
    CHECK(*alive == 1);

    generator.set_logits_processor([](auto, auto) { return false; });
    CHECK(alive.use_count() == 1);
    FAILS(generator.generate(test::PROMPT, most(1)), cancelled, "");

    generator.set_logits_processor([](auto, auto) { throw 7; });
    int number = 0;
    try {
        generator.generate(test::PROMPT, most(1));
    } catch (const int thrown) {
        number = thrown;
    }
    CHECK(number == 7);

    generator.set_logits_processor([alive](auto, auto) {});
    CHECK(alive.use_count() == 2);
    generator.clear_logits_processor();
    CHECK(alive.use_count() == 1);
    CHECK(test::to_vector(generator.generate(test::PROMPT, most(2)).tokens()) == expected);
    {
        auto moved = std::move(generator);
        FAILS(generator.set_logits_processor([alive](auto, auto) {}), null_pointer, "generator");
        moved.set_logits_processor([alive](auto, auto) {});
        CHECK(alive.use_count() == 2);
    }
    CHECK(alive.use_count() == 1);
}

TEST(a_generator_keeps_what_it_read) {
    const test::folder folder;
    auto generator = mcandle::generator::create(test::model(), mcandle::cache_type::int8);
    generator = mcandle::generator::create(test::model());
    generator.generate(test::PROMPT, most(4));
    const auto read = generator.context();
    CHECK(read.size() == prompt_ids().size() + 3);

    auto fork = generator.fork();
    CHECK(fork.context() == read);
    fork.truncate(2);
    CHECK(fork.context() == tokens(read.begin(), read.begin() + 2));

    generator.save_session(folder / "größe.session");
    auto other = mcandle::generator::create(test::model());
    other.load_session(folder / "größe.session");
    CHECK(other.context() == read);
    FAILS(other.load_session(folder / "missing"), not_found, "missing");
}

TEST(a_draft_model_changes_no_token) {
    auto generator = mcandle::generator::create(test::model());
    generator.set_draft_model(test::model());
    const auto generation = generator.generate(test::PROMPT, most(24));
    CHECK(test::to_vector(generation.tokens()) == test::reference(24));
    CHECK(generation.drafted_tokens() > 0 && generation.accepted_tokens() > 0);
    generator.clear_draft_model();
    CHECK(generator.generate(test::PROMPT, most(24)).drafted_tokens() == 0);
}

TEST(texts_are_scored) {
    auto generator = mcandle::generator::create(test::model());
    const auto ids = prompt_ids();
    const auto logits = generator.next_logits(ids);
    CHECK(logits.size() == test::model().vocab_size());
    CHECK(std::max_element(logits.begin(), logits.end()) - logits.begin() ==
          static_cast<std::ptrdiff_t>(test::reference(1)[0]));

    const auto logprobs = generator.logprobs(ids);
    const auto perplexity = generator.perplexity(ids, 1024, 512);
    const double sum = std::accumulate(logprobs.begin(), logprobs.end(), 0.0);
    CHECK(logprobs.size() == ids.size() - 1 && perplexity.token_count == logprobs.size());
    CHECK(std::fabs(perplexity.sum_nll + sum) < 1e-3);
    CHECK(std::fabs(perplexity.value - std::exp(-sum / double(logprobs.size()))) < 1e-2);

    const auto embedding = generator.embed(ids);
    const double length =
        std::inner_product(embedding.begin(), embedding.end(), embedding.begin(), 0.0);
    CHECK(embedding.size() == 256 && std::fabs(length - 1) < 1e-4);
    CHECK(generator.embed(ids, mcandle::pooling::last, false) != embedding);
    FAILS(generator.next_logits({}), invalid_argument, "ids");
}
