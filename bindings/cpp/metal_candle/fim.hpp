/**
 * @file
 * Code between a prefix and a suffix.
 */
#ifndef METAL_CANDLE_FIM_HPP
#define METAL_CANDLE_FIM_HPP

#include "metal_candle/handle.hpp"

#include <optional>
#include <string>
#include <string_view>

MCANDLE_NAMESPACE_BEGIN

/** What a model is shown of a repository before the file that it completes. Text that is refused is
 * reported by the call that uses the context. */
class fim_context : public handle<mcandle_fim_context, mcandle_fim_context_free> {
public:
    using handle::handle;

    /** Makes a context without a repository, files or a path. */
    fim_context() : handle(mcandle_fim_context_new()) {}

    /** Sets the name of the repository. */
    fim_context &repo_name(std::string_view name) {
        return set([&](auto *error) {
            return mcandle_fim_context_set_repo_name(get(), detail::terminated(name).c_str(),
                                                     error);
        });
    }

    /** Sets the path, in the repository, of the file that is completed. */
    fim_context &path(std::string_view path) {
        return set([&](auto *error) {
            return mcandle_fim_context_set_path(get(), detail::terminated(path).c_str(), error);
        });
    }

    /** Adds another file of the repository, the most relevant one last. */
    fim_context &add_file(std::string_view path, std::string_view text) {
        return set([&](auto *error) {
            return mcandle_fim_context_add_file(get(), detail::terminated(path).c_str(),
                                                text.data(), text.size(), error);
        });
    }

    /** Gives what was refused, or that the context was moved from; nothing where it can be used. */
    std::optional<error> refusal() const {
        if (!refusal_ && !*this) {
            return detail::moved_from("context");
        }
        return refusal_;
    }

private:
    template <class Call> fim_context &set(Call &&call) {
        const auto outcome = detail::attempt_call<void>(std::forward<Call>(call));
        if (!outcome && !refusal_) {
            refusal_ = outcome.error();
        }
        return *this;
    }

    std::optional<error> refusal_;
};

MCANDLE_NAMESPACE_END

#endif
