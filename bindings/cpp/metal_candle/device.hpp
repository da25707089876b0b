/**
 * @file
 * The library itself, and what it computes on.
 */
#ifndef METAL_CANDLE_DEVICE_HPP
#define METAL_CANDLE_DEVICE_HPP

#include "metal_candle/handle.hpp"

#include <cstddef>
#include <cstdint>
#include <string_view>

MCANDLE_NAMESPACE_BEGIN

/** Where a model computes. */
enum class device : std::int32_t {
    automatic = MCANDLE_DEVICE_AUTO, /**< A GPU where there is a usable one, else the CPU. */
    cpu = MCANDLE_DEVICE_CPU,        /**< The CPU. */
    metal = MCANDLE_DEVICE_METAL,    /**< Apple's GPU. */
    cuda = MCANDLE_DEVICE_CUDA,      /**< An NVIDIA GPU; needs a build with CUDA. */
};

/** The number format of weights and activations. */
enum class dtype : std::int32_t {
    automatic = MCANDLE_DTYPE_AUTO, /**< What the checkpoint has, where the device is good at it. */
    f32 = MCANDLE_DTYPE_F32,        /**< 32-bit floats. */
    f16 = MCANDLE_DTYPE_F16,        /**< 16-bit floats of IEEE 754. */
    bf16 = MCANDLE_DTYPE_BF16,      /**< 16-bit brain floats. */
};

/** How keys and values are kept. */
enum class cache_type : std::int32_t {
    full = MCANDLE_CACHE_FULL, /**< In the number format of the model. */
    int8 = MCANDLE_CACHE_INT8, /**< In eight bits. */
};

/** Tells whether a device can be used on this machine with this build. */
inline bool is_available(device device) noexcept {
    return mcandle_device_is_available(detail::number(device));
}

/** Gives the version of the loaded library, such as "0.1.0". */
inline std::string_view version() noexcept { return mcandle_version(); }

/** Gives the version of the binary interface of the loaded library; it has to be
 * MCANDLE_ABI_VERSION. */
inline std::uint32_t abi_version() noexcept { return mcandle_abi_version(); }

/** Gives the resident memory of the process now, in bytes; 0 where the system does not tell. */
inline std::uint64_t memory_current() noexcept { return mcandle_memory_current(); }

/** Gives the most resident memory that the process has had, in bytes; 0 where the system does not
 * tell. */
inline std::uint64_t memory_peak() noexcept { return mcandle_memory_peak(); }

/** How much memory there is and is used, as it was when this was made. What the system does not
 * tell is 0. */
class memory_info : public handle<mcandle_memory_info, mcandle_memory_info_free> {
public:
    using handle::handle;

    /** Finds out how much memory there is and is used, of a device too. */
    static result<memory_info> create(device device) {
        return detail::call<memory_info>([&](auto *info, auto *error) {
            return mcandle_memory_info_new(detail::number(device), info, error);
        });
    }

    /** Gives the resident bytes of the process. */
    std::uint64_t process_current() const noexcept {
        return mcandle_memory_info_process_current(get());
    }

    /** Gives the most resident bytes that the process has had. */
    std::uint64_t process_peak() const noexcept { return mcandle_memory_info_process_peak(get()); }

    /** Gives the bytes of the machine. */
    std::uint64_t system_total() const noexcept { return mcandle_memory_info_system_total(get()); }

    /** Gives the bytes of the machine that a process may still take. */
    std::uint64_t system_available() const noexcept {
        return mcandle_memory_info_system_available(get());
    }

    /** Gives the bytes that the device can hold and still be fast. */
    std::uint64_t device_total() const noexcept { return mcandle_memory_info_device_total(get()); }

    /** Gives the bytes that the process has allocated on the device. */
    std::uint64_t device_used() const noexcept { return mcandle_memory_info_device_used(get()); }
};

/** Sets how many threads compute on the CPU, in the whole process; 0 for the default. */
inline result<void> set_thread_count(std::size_t count) {
    return detail::call<void>(
        [count](auto *error) { return mcandle_set_thread_count(count, error); });
}

/** Gives how many threads compute on the CPU. Where there are none yet, they are started. */
inline std::size_t thread_count() noexcept { return mcandle_thread_count(); }

MCANDLE_NAMESPACE_END

#endif
