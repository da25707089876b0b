// What holds for all objects: they move, they are freed once, and what was moved from is refused.
#include "test.hpp"

#include <array>
#include <stdexcept>
#include <type_traits>
#if defined(__cpp_lib_span)
#include <span>
#endif

namespace {

template <class T>
constexpr bool moves_only =
    std::is_nothrow_move_constructible_v<T> && std::is_nothrow_move_assignable_v<T> &&
    !std::is_copy_constructible_v<T> && !std::is_copy_assignable_v<T>;

static_assert(moves_only<mcandle::model> && moves_only<mcandle::model_info>);
static_assert(moves_only<mcandle::tokenizer> && moves_only<mcandle::adapter>);
static_assert(moves_only<mcandle::generator> && moves_only<mcandle::generation>);
static_assert(moves_only<mcandle::token_stream> && moves_only<mcandle::batch>);
static_assert(moves_only<mcandle::batch_results> && moves_only<mcandle::tool_call_parser>);
static_assert(moves_only<mcandle::dataset> && moves_only<mcandle::trainer>);
static_assert(moves_only<mcandle::train_summary>);
static_assert(std::is_copy_constructible_v<mcandle::generate_options>);
static_assert(std::is_copy_assignable_v<mcandle::train_options>);
static_assert(std::is_base_of_v<std::runtime_error, mcandle::error>);

// Moves an object onto itself, where a compiler does not see it.
template <class T> void move_to(T &to, T &from) { to = std::move(from); }

} // namespace

TEST(the_library_is_that_of_the_header) {
    CHECK(mcandle::abi_version() == MCANDLE_ABI_VERSION);
    CHECK(mcandle::version().find('.') != std::string_view::npos);
    CHECK(mcandle::is_available(mcandle::device::cpu));
    CHECK(mcandle::memory_current() > 0 && mcandle::memory_peak() >= mcandle::memory_current() / 2);
}

TEST(errors_have_a_status_and_a_message) {
    FAILS(mcandle::model::load("missing"), not_found, "missing");
    FAILS(mcandle::model::load(std::string("assets\0hidden", 13)), invalid_utf8, "path");
    CHECK(mcandle::name(mcandle::status::not_found) == "MCANDLE_NOT_FOUND");
    bool thrown = false;
    try {
        mcandle::model::load("missing");
    } catch (const std::runtime_error &error) {
        thrown = std::string_view(error.what()).find("missing") != std::string_view::npos;
    }
    CHECK(thrown);
}

TEST(attempts_give_a_value_or_an_error) {
    auto loaded = mcandle::attempt([] { return mcandle::model::load("missing"); });
    static_assert(std::is_same_v<decltype(loaded), mcandle::expected<mcandle::model>>);
    CHECK(!loaded && !loaded.has_value());
    CHECK(loaded.error().status() == mcandle::status::not_found);
    FAILS(loaded.value(), not_found, "missing");

    auto text = mcandle::attempt([] { return test::model().summary(); });
    CHECK(text && text->size() == (*text).size() && !text.value().empty());
    CHECK(!std::move(text).value().empty());

    bool passed = false;
    try {
        static_cast<void>(mcandle::attempt([] { throw std::logic_error("another"); }));
    } catch (const std::logic_error &) {
        passed = true;
    }
    CHECK(passed);
}

TEST(what_was_moved_from_is_refused) {
    auto model = mcandle::model::load(test::MODEL);
    auto generator = mcandle::generator::create(model);
    move_to(model, model);
    move_to(generator, generator);
    CHECK(model && model.vocab_size() > 0 && generator);

    auto moved = std::move(model);
    CHECK(!model && model.get() == nullptr && model.vocab_size() == 0);
    CHECK(moved.vocab_size() > 0 && model.parameter_count() == 0 && model.context_length() == 0);
    FAILS(model.summary(), null_pointer, "model");
    FAILS(mcandle::generator::create(model), null_pointer, "model");
    FAILS(generator.set_draft_model(model), null_pointer, "moved from");
    model = std::move(moved);
    CHECK(model.vocab_size() > 0 && !moved);

    mcandle::generate_options options;
    options.max_tokens(2);
    auto kept = std::move(options);
    FAILS(generator.generate(test::PROMPT, options), null_pointer, "options was moved from");
    FAILS(options.to_json(), null_pointer, "moved from");
    CHECK(generator.generate(test::PROMPT, kept).tokens().size() == 2);
    options = kept;
    CHECK(generator.generate(test::PROMPT, options).tokens().size() == 2);

    auto other = std::move(generator);
    FAILS(generator.generate(test::PROMPT), null_pointer, "generator");
    generator.cancel();
    CHECK(other.generate(test::PROMPT, options).tokens().size() == 2);

    auto generation = other.generate(test::PROMPT, options);
    const auto taken = std::move(generation);
    CHECK(generation.text().empty() && generation.tokens().empty() && taken.tokens().size() == 2);
}

TEST(objects_of_c_are_taken_and_given_away) {
    auto model = mcandle::model::load(test::MODEL);
    const std::size_t vocabulary = model.vocab_size();
    const mcandle::model again(model.release());
    CHECK(!model && again.vocab_size() == vocabulary);
}

TEST(spans_come_from_what_lies_in_a_row) {
    const auto sum = [](mcandle::span<const std::uint32_t> ids) {
        std::uint32_t total = 0;
        for (const std::uint32_t id : ids) {
            total += id;
        }
        return total;
    };
    const std::vector<std::uint32_t> vector{1, 2, 3};
    const std::array<std::uint32_t, 2> array{4, 5};
    CHECK(sum(vector) == 6 && sum(array) == 9 && sum({7, 8}) == 15 && sum({}) == 0);
    CHECK(mcandle::span<const std::uint32_t>(vector)[1] == 2);
#if defined(__cpp_lib_span)
    CHECK(sum(std::span<const std::uint32_t>(vector)) == 6);
    const std::span<const std::uint32_t> other = mcandle::span<const std::uint32_t>(vector);
    CHECK(other.size() == 3 && other[2] == 3);
#endif
}
