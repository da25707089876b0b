/**
 * @file
 * Numbers that lie in a row and belong to somebody else.
 */
#ifndef METAL_CANDLE_SPAN_HPP
#define METAL_CANDLE_SPAN_HPP

#include "metal_candle/config.hpp"

#include <cstddef>
#include <initializer_list>
#include <type_traits>

MCANDLE_NAMESPACE_BEGIN

/**
 * A pointer and a number of elements, which std::span can be made of and the other way round. It is
 * the same type in every version of C++, and owns nothing.
 */
template <class T> class span {
public:
    using element_type = T;
    using value_type = std::remove_cv_t<T>;
    using size_type = std::size_t;
    using difference_type = std::ptrdiff_t;
    using pointer = T *;
    using reference = T &;
    using iterator = T *;

    /** No elements. */
    constexpr span() noexcept = default;

    /** The elements from a pointer on. */
    constexpr span(T *data, std::size_t size) noexcept : data_(data), size_(size) {}

    /** The elements of a vector, an array, a std::span. */
    template <class Container,
              class = std::enable_if_t<
                  !std::is_same_v<std::remove_cv_t<std::remove_reference_t<Container>>, span> &&
                  std::is_convertible_v<decltype(std::declval<Container &>().data()), T *>>,
              class = decltype(std::declval<Container &>().size())>
    constexpr span(Container &&container) noexcept
        : data_(container.data()), size_(container.size()) {}

    /** The elements of a list in braces, which live as long as the call that they are given to. */
    template <class U = T, class = std::enable_if_t<std::is_const_v<U>>>
    constexpr span(std::initializer_list<value_type> list) noexcept
        : data_(list.begin()), size_(list.size()) {}

    /** Gives the first element. */
    constexpr T *data() const noexcept { return data_; }

    /** Gives the number of elements. */
    constexpr std::size_t size() const noexcept { return size_; }

    /** Tells whether there is none. */
    constexpr bool empty() const noexcept { return size_ == 0; }

    /** Gives the place of the first element. */
    constexpr T *begin() const noexcept { return data_; }

    /** Gives the place behind the last element. */
    constexpr T *end() const noexcept { return data_ + size_; }

    /** Gives an element by its place. */
    constexpr T &operator[](std::size_t index) const noexcept { return data_[index]; }

private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};

MCANDLE_NAMESPACE_END

#endif
