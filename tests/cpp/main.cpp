// Runs every test, or those whose names are given; "leak" leaks, to see that it is found.
#include "test.hpp"

#include <algorithm>
#include <fstream>
#include <random>

namespace {

struct entry {
    const char *name;
    void (*run)();
};

std::vector<entry> &entries() {
    static std::vector<entry> entries;
    return entries;
}

} // namespace

extern "C" std::size_t reference_tokens(const char *model_dir, const char *prompt,
                                        std::size_t max_tokens, std::uint32_t *tokens);

namespace test {

registration::registration(const char *name, void (*run)()) { entries().push_back({name, run}); }

folder::folder()
    : path_(std::filesystem::temp_directory_path() /
            ("metal-candle-cpp-" + std::to_string(std::random_device()()) + "-größe")) {
    if (!std::filesystem::create_directory(path_)) {
        fail(__FILE__, __LINE__, "the folder is there already");
    }
}

std::filesystem::path folder::write(const char *name, std::string_view content) const {
    const std::filesystem::path path = path_ / name;
    std::ofstream file(path, std::ios::binary);
    file << content;
    if (!file.flush()) {
        fail(__FILE__, __LINE__, "cannot write");
    }
    return path;
}

const mcandle::model &model() {
    static const mcandle::model model = mcandle::model::load(MODEL);
    return model;
}

tokens reference(std::size_t max_tokens) {
    tokens ids(max_tokens);
    ids.resize(reference_tokens(MODEL, PROMPT, max_tokens, ids.data()));
    if (ids.empty()) {
        fail(__FILE__, __LINE__, "C generates nothing");
    }
    return ids;
}

} // namespace test

int main(int argc, char **argv) {
    std::size_t count = 0;
    if (argc == 2 && std::string(argv[1]) == "leak") {
        // All but the last are lost.
        static mcandle::conversation *volatile last;
        for (int i = 0; i < 10; i++) {
            last = new mcandle::conversation();
            last->user("nobody frees this, which is too long to be kept in place");
        }
        return 0;
    }
    for (const entry &entry : entries()) {
        if (argc < 2 || std::find(argv + 1, argv + argc, std::string(entry.name)) != argv + argc) {
            std::printf("%s\n", entry.name);
            std::fflush(stdout);
            entry.run();
            count++;
        }
    }
    std::printf("%zu tests passed, in C++%ld\n", count, __cplusplus / 100 % 100);
    return count == 0;
}
