// What holds for the whole process: messages, memory and threads.
#include "test.hpp"

#include <memory>
#include <mutex>

TEST(messages_are_told) {
    std::mutex mutex;
    std::string told;
    auto alive = std::make_shared<int>(0);
    mcandle::set_log_callback(
        mcandle::log_level::info,
        [&, alive](mcandle::log_level level, std::string_view target, std::string_view message) {
            const std::lock_guard<std::mutex> lock(mutex);
            CHECK(level <= mcandle::log_level::info);
            told += std::string(target) + ": " + std::string(message) + "\n";
            throw std::string("this is dropped");
        });
    CHECK(alive.use_count() == 2);
    static_cast<void>(mcandle::model::load(test::MODEL));
    CHECK(told.find("metal_candle") == 0 && told.find(test::MODEL) != std::string::npos);
    mcandle::clear_log_callback();
    CHECK(alive.use_count() == 1);
    const std::string before = told;
    static_cast<void>(mcandle::model::load(test::MODEL));
    CHECK(told == before);
    FAILS(mcandle::set_log_callback(
              static_cast<mcandle::log_level>(7),
              [alive](mcandle::log_level, std::string_view, std::string_view) {}),
          invalid_argument, "level");
    CHECK(alive.use_count() == 1);
}

TEST(memory_is_told_and_bounded) {
    const auto info = mcandle::memory_info::create(mcandle::device::cpu);
    CHECK(info.process_current() > 0 && info.process_peak() >= info.process_current() / 2);
    CHECK(info.system_total() > info.process_current() && info.system_available() > 0);
    CHECK(info.device_total() == 0 && info.device_used() == 0);
    FAILS(mcandle::memory_info::create(static_cast<mcandle::device>(77)), invalid_argument,
          "device");

    FAILS(mcandle::model::load(test::MODEL, mcandle::model_options().memory_budget(1000)),
          out_of_memory, "1000");
    auto generator = mcandle::generator::create(test::model());
    FAILS(generator.generate(test::PROMPT, mcandle::generate_options().max_kv_bytes(1)),
          out_of_memory, "budget is 1");
}

TEST(threads_are_counted) {
    test::model().warm_up();
    const std::size_t before = mcandle::thread_count();
    CHECK(before > 0);
    mcandle::set_thread_count(before + 1);
    CHECK(mcandle::thread_count() == before + 1);
    mcandle::set_thread_count(0);
    CHECK(mcandle::thread_count() > 0);
    FAILS(mcandle::set_thread_count(100000), invalid_argument, "");
}
