// Conversations, calls of tools, and code with a middle to fill in.
#include "test.hpp"

using test::tokens;

namespace {

mcandle::generate_options most(std::size_t max_tokens) {
    return mcandle::generate_options().max_tokens(max_tokens);
}

} // namespace

TEST(conversations_are_json) {
    mcandle::conversation conversation;
    conversation.system("s").user("a \"b\"\\\n\x01 größe").assistant("c");
    conversation.add_json("{\"role\":\"tool\",\"content\":\"d\"}");
    CHECK(conversation.json() ==
          "[{\"role\":\"system\",\"content\":\"s\"},"
          "{\"role\":\"user\",\"content\":\"a \\\"b\\\"\\\\\\u000a\\u0001 größe\"},"
          "{\"role\":\"assistant\",\"content\":\"c\"},"
          "{\"role\":\"tool\",\"content\":\"d\"}]");
    CHECK(mcandle::conversation().json() == "[]");
}

TEST(templates_write_conversations) {
    CHECK(test::model().has_chat_template());
    const std::string messages = mcandle::conversation().user("a \"b\"\n\\").json();
    CHECK(test::model().apply_chat_template(messages) ==
          "<|im_start|>user\na \"b\"\n\\<|im_end|>\n<|im_start|>assistant\n");
    CHECK(test::model().apply_chat_template(messages, "{\"add_generation_prompt\": false}") ==
          "<|im_start|>user\na \"b\"\n\\<|im_end|>\n");
    FAILS(test::model().apply_chat_template("["), invalid_argument, "messages");
}

TEST(conversations_are_answered) {
    auto generator = mcandle::generator::create(test::model());
    const std::string messages = mcandle::conversation().user("hello").json();
    const auto options = most(8).ignore_eos(true);
    const auto expected = generator.generate(test::model().apply_chat_template(messages), options);
    std::size_t chunks = 0;
    const auto answer =
        generator.chat(messages, options, [&](const mcandle::chunk &) { chunks++; });
    CHECK(test::to_vector(answer.tokens()) == test::to_vector(expected.tokens()) && chunks == 8);
    auto stream = generator.stream_chat(messages, options);
    CHECK(test::to_vector(stream.finish().tokens()) == test::to_vector(expected.tokens()));

    const char *const closed = "{\"add_generation_prompt\": false}";
    const auto other =
        generator.generate(test::model().apply_chat_template(messages, closed), options);
    const auto without = generator.chat(messages, options, nullptr, {}, closed);
    CHECK(test::to_vector(without.tokens()) == test::to_vector(other.tokens()));
    CHECK(without.prompt_tokens() == other.prompt_tokens());
    FAILS(generator.chat("[", options), invalid_argument, "messages");
}

TEST(tool_calls_are_found) {
    mcandle::tool_call_parser parser(true);
    std::string found;
    const auto note = [&](const mcandle::piece &piece) {
        found += "TRC"[static_cast<int>(piece.kind())];
        found += std::string(piece.name()) + "[" + std::string(piece.text()) + "]";
    };
    parser.push("<think>hm</think>a<tool", note);
    parser.push("_call>{\"name\": \"f\", \"arguments\": {\"x\": 1}}</tool_call> <", note);
    CHECK(found == "R[hm]T[a]Cf[{\"x\":1}]T[ ]");
    parser.finish(note);
    CHECK(found == "R[hm]T[a]Cf[{\"x\":1}]T[ ]T[<]");

    std::size_t pieces = 0;
    bool thrown = false;
    try {
        parser.push("a<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>b",
                    [&](const mcandle::piece &) {
                        pieces++;
                        throw std::string("mine");
                    });
    } catch (const std::string &) {
        thrown = true;
    }
    CHECK(thrown && pieces == 1);
    FAILS(parser.push("\xff", note), invalid_utf8, "text");
}

TEST(middles_are_filled_in) {
    auto generator = mcandle::generator::create(test::model());
    const auto tokenizer = test::model().tokenizer();
    const auto prompt = test::model().fim_prompt("a =", ";");
    CHECK(tokenizer.decode(prompt, false) == "<|fim_prefix|>a =<|fim_suffix|>;<|fim_middle|>");
    CHECK(!test::model().fim_stop_tokens().empty());

    auto options = most(6);
    for (const std::uint32_t id : test::model().fim_stop_tokens()) {
        options.stop_token_id(id);
    }
    const auto expected = test::to_vector(generator.generate_from_ids(prompt, options).tokens());
    const auto middle = generator.complete("a =", ";", most(6), [](const mcandle::chunk &) {});
    CHECK(test::to_vector(middle.tokens()) == expected);
    auto stream = generator.stream_complete("a =", ";", most(6));
    CHECK(test::to_vector(stream.finish().tokens()) == expected);

    mcandle::fim_context context;
    context.repo_name("repo").path("b.rs").add_file("a.rs", "struct A;");
    const auto shown = test::model().fim_prompt("a =", ";", context);
    CHECK(tokenizer.decode(shown, false).find("struct A;") != std::string::npos);
    const auto with = generator.complete("a =", ";", most(6), nullptr, {}, context);
    CHECK(with.prompt_tokens() == shown.size());
    auto owned = generator.stream_complete("a =", ";", most(6), {}, std::move(context));
    CHECK(owned.finish().prompt_tokens() == shown.size());
    FAILS(test::model().fim_prompt("a", "b", context), null_pointer, "moved from");
    mcandle::fim_context refused;
    refused.path("\xff").repo_name("repo");
    FAILS(generator.complete("a", "b", {}, nullptr, {}, refused), invalid_utf8, "path");
}
