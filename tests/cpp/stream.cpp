// A generation as a range.
#include "test.hpp"

#include <algorithm>
#include <iterator>
#include <thread>
#if defined(__cpp_lib_ranges)
#include <ranges>
#endif

using test::tokens;

namespace {

mcandle::generate_options most(std::size_t max_tokens) {
    return mcandle::generate_options().max_tokens(max_tokens);
}

static_assert(std::is_same_v<std::iterator_traits<mcandle::token_stream::iterator>::reference,
                             const mcandle::token &>);
#if defined(__cpp_lib_ranges)
static_assert(std::ranges::input_range<mcandle::token_stream>);
#endif

} // namespace

TEST(a_stream_gives_the_tokens_of_a_call) {
    auto generator = mcandle::generator::create(test::model());
    const auto expected = test::reference(40);
    tokens ids;
    std::string text;
    // More tokens than the stream holds at once; options and prompt end before it.
    for (const mcandle::token &token :
         generator.stream(std::string(test::PROMPT), most(40).top_logprobs(1))) {
        CHECK(token.index == ids.size() && token.logprob <= 0);
        CHECK(token.top_tokens == tokens{token.id} && token.top_logprobs.size() == 1);
        ids.push_back(token.id);
        text += token.text;
    }
    CHECK(ids == expected);

    auto stream = generator.stream(test::PROMPT, most(40));
    std::string again;
    for (auto token = stream.begin(); token != stream.end(); token++) {
        again += token->text;
    }
    const auto generation = stream.finish();
    CHECK(again == text && generation.text() == text);
    CHECK(test::to_vector(generation.tokens()) == expected);
    CHECK(generation.finish_reason() == mcandle::finish_reason::length);
    CHECK(stream.begin() == stream.end());
    FAILS(stream.finish(), invalid_argument, "taken before");
}

TEST(a_stream_finishes_without_being_read) {
    auto generator = mcandle::generator::create(test::model());
    auto stream = generator.stream(test::PROMPT, most(40));
    auto moved = std::move(stream);
    FAILS(stream.finish(), null_pointer, "moved from");
    CHECK(stream.begin() == stream.end());
    CHECK(test::to_vector(moved.finish().tokens()) == test::reference(40));

    auto ids = generator.stream_from_ids(test::model().tokenizer().encode(test::PROMPT), most(8));
    CHECK(test::to_vector(ids.finish().tokens()) == test::reference(8));
}

TEST(a_loop_that_is_left_ends_the_generation) {
    auto generator = mcandle::generator::create(test::model());
    std::size_t count = 0;
    for (const mcandle::token &token :
         generator.stream(test::PROMPT, most(1900).ignore_eos(true))) {
        CHECK(token.index == count);
        if (++count == 3) {
            break;
        }
    }
    // The thread is gone, and what it read beyond is at most what a stream holds.
    CHECK(generator.context().size() < 60);
    CHECK(test::to_vector(generator.generate(test::PROMPT, most(4)).tokens()) ==
          test::reference(4));

    bool thrown = false;
    try {
        for (const mcandle::token &token : generator.stream(test::PROMPT, most(1900))) {
            throw token.id;
        }
    } catch (const std::uint32_t id) {
        thrown = id == test::reference(1)[0];
    }
    CHECK(thrown);

    auto replaced = generator.stream(test::PROMPT, most(1900).ignore_eos(true));
    CHECK(replaced.begin() != replaced.end());
    auto other = mcandle::generator::create(test::model());
    replaced = other.stream(test::PROMPT, most(2));
    CHECK(replaced.finish().tokens().size() == 2);
    generator.stream(test::PROMPT, most(1900).ignore_eos(true));
}

TEST(a_stream_outlives_its_generator) {
    auto stream = mcandle::generator::create(test::model()).stream(test::PROMPT, most(40));
    tokens ids;
    for (const mcandle::token &token : stream) {
        ids.push_back(token.id);
    }
    CHECK(ids == test::reference(40));
    auto generator = mcandle::generator::create(test::model());
    stream = generator.stream(test::PROMPT, most(1900).ignore_eos(true));
    generator = mcandle::generator(nullptr);
    CHECK(stream.begin() != stream.end());
    auto none = generator.stream(test::PROMPT);
    FAILS(none.begin(), null_pointer, "generator");
}

TEST(a_stream_fails_where_its_next_token_is_asked_for) {
    auto generator = mcandle::generator::create(test::model());
    auto refused = generator.stream(test::PROMPT, most(0));
    FAILS(refused.begin(), invalid_argument, "max_tokens");
    FAILS(refused.finish(), invalid_argument, "max_tokens");

    generator.set_logits_processor(
        [](mcandle::span<const std::uint32_t>, mcandle::span<float>) { throw 7; });
    auto stream = generator.stream(test::PROMPT, most(4));
    int number = 0;
    try {
        stream.begin();
    } catch (const int thrown) {
        number = thrown;
    }
    CHECK(number == 7);
    FAILS(stream.finish(), cancelled, "exception");
}

TEST(a_generator_is_busy_while_its_stream_generates) {
    auto generator = mcandle::generator::create(test::model());
    auto stream = generator.stream(test::PROMPT, most(1900).ignore_eos(true));
    CHECK(stream.begin() != stream.end());
    FAILS(generator.generate("x"), busy, "in use");
    auto second = generator.stream(test::PROMPT);
    FAILS(second.begin(), busy, "in use");
    generator.cancel();
    std::size_t left = 0;
    for (const mcandle::token &token : stream) {
        left += token.index > 0;
    }
    CHECK(left < 60);
    CHECK(stream.finish().finish_reason() == mcandle::finish_reason::cancelled);
}

#if defined(__cpp_lib_jthread)
TEST(a_stop_token_ends_a_stream) {
    auto generator = mcandle::generator::create(test::model());
    std::stop_source source;
    auto stream = generator.stream(test::PROMPT, most(1900).ignore_eos(true), source.get_token());
    std::size_t count = 0;
    for (const mcandle::token &token : stream) {
        count = token.index + 1;
        source.request_stop();
    }
    CHECK(count >= 1 && count < 60);
    CHECK(stream.finish().finish_reason() == mcandle::finish_reason::cancelled);
}
#endif
