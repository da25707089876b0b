// What the tests of the wrapper share. A test that fails says where, and exits with 1; so it does
// where NDEBUG is defined.
#ifndef TEST_HPP
#define TEST_HPP

#include "metal_candle.hpp"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace test {

using tokens = std::vector<std::uint32_t>;

constexpr const char *MODEL = "assets/tiny-coder";
constexpr const char *PROMPT = "fn main() {\n    let x = ";
constexpr const char *STYLE_ADAPTER = "tests/fixtures/lora/nonzero_b";
constexpr const char *NAMES_ADAPTER = "tests/fixtures/mlx/lora_adapter";

struct registration {
    registration(const char *name, void (*run)());
};

[[noreturn]] inline void fail(const char *file, int line, std::string_view what) {
    std::fprintf(stderr, "%s:%d: %.*s\n", file, line, static_cast<int>(what.size()), what.data());
    std::exit(1);
}

inline void check_failure(const char *file, int line, const mcandle::expected<void> &outcome,
                          mcandle::status status, std::string_view part) {
    if (outcome) {
        fail(file, line, "did not fail");
    }
    const std::string message = outcome.error().what();
    if (outcome.error().status() != status || message.find(part) == std::string::npos) {
        fail(file, line, std::string(mcandle::name(outcome.error().status())) + ": " + message);
    }
}

// A folder of its own for each use, which is removed.
class folder {
public:
    folder();
    ~folder() { std::filesystem::remove_all(path_); }
    folder(const folder &) = delete;
    folder &operator=(const folder &) = delete;

    std::filesystem::path operator/(const std::filesystem::path &name) const {
        return path_ / name;
    }
    const std::filesystem::path &path() const { return path_; }
    std::filesystem::path write(const char *name, std::string_view content) const;

private:
    std::filesystem::path path_;
};

#if !defined(MCANDLE_NO_EXCEPTIONS)
// One model for all tests.
const mcandle::model &model();
#endif

inline tokens to_vector(mcandle::span<const std::uint32_t> ids) {
    return tokens(ids.begin(), ids.end());
}

// The greedy tokens for the prompt, as functions of C give them.
tokens reference(std::size_t max_tokens);

} // namespace test

#define TEST(name)                                                                                 \
    static void name();                                                                            \
    static const test::registration name##_registration(#name, &name);                             \
    static void name()

#define CHECK(...)                                                                                 \
    do {                                                                                           \
        if (!(__VA_ARGS__)) {                                                                      \
            test::fail(__FILE__, __LINE__, "not true: " #__VA_ARGS__);                             \
        }                                                                                          \
    } while (0)

// Checks that an expression fails with a status, and with a message that holds a text.
#define FAILS(expression, wanted, part)                                                            \
    test::check_failure(__FILE__, __LINE__,                                                        \
                        mcandle::attempt([&] { static_cast<void>(expression); }),                  \
                        mcandle::status::wanted, part)

#endif
