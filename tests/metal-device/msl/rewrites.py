"""Rewrites inside of statements: what Metal's language has and C++ has not.

All of them work on tokens and need no types: where a type matters, the C++ compiler deduces it.
"""

import re

from tokens import (
    TranslateError,
    blank,
    brackets,
    is_attribute,
    is_space,
    next_word,
    split_commas,
    words,
)

ADDRESS_SPACES = {"device", "thread", "threadgroup"}
VECTOR = re.compile(r"(?:float|half|bfloat|int|uint|short|ushort|char|uchar|long|ulong|bool)[234]")
FLOAT = re.compile(r"(?:\d+\.\d*|\.\d+)(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+")
HALF = re.compile(r"(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)h")


def rewrite(tokens):
    """The tokens of a statement as C++."""
    return single_default_constructors(Rewriter(tokens).run(0, len(tokens)))


def literal(token):
    """Metal has no double: a literal without suffix is a float. C++ has no suffix for half."""
    if FLOAT.fullmatch(token):
        return token + "f"
    half = HALF.fullmatch(token)
    if half:
        digits = half.group(1)
        return f"half({digits if not digits.isdigit() else digits + '.'}f)"
    return token


class Rewriter:
    """One pass over the tokens of a statement."""

    def __init__(self, tokens):
        self.tokens = tokens
        self.pairs = brackets(tokens)
        self.previous = ""

    def run(self, index, end):
        """The rewritten tokens [index, end)."""
        out = []
        while index < end:
            added, after = self.step(index)
            out += added
            self.previous = (words(self.tokens[index:after]) or [self.previous])[-1]
            index = after
        return out

    def step(self, index):
        """(the replacement of the tokens that start here, the index behind them)."""
        token = self.tokens[index]
        if is_attribute(self.tokens, index):
            end = self.pairs[index] + 1
            return blank(self.tokens[index:end]), end
        if token in ADDRESS_SPACES or token == "constant":
            return self.address_space(index)
        if token == "static_cast" and self.word_after(index) == "<":
            # clang converts between half and bfloat only by way of float, and no vectors.
            return ["msl::cast"], index + 1
        if (
            VECTOR.fullmatch(token)
            and self.word_after(index) == "("
            and self.previous != "operator"
        ):
            # A C++ vector is no class: it has no constructors.
            return [f"msl::make<{token}>"], index + 1
        if token == "(":
            return self.vector_cast(index)
        if token[0].isdigit() or (token[0] == "." and len(token) > 1):
            return [literal(token)], index + 1
        return [token], index + 1

    def word_after(self, index):
        index = next_word(self.tokens, index)
        return self.tokens[index] if index < len(self.tokens) else ""

    def address_space(self, index):
        """All address spaces are one here. Only `constant` says something else too: const."""
        token = self.tokens[index]
        if self.previous == ")":
            # The address space of `this`.
            return [], index + 1
        if token == "threadgroup" and self.previous in ("{", "}", ";", ":"):
            variable = self.threadgroup_variable(index)
            if variable:
                return variable
        return (["const"] if token == "constant" else []), index + 1

    def threadgroup_variable(self, index):
        """`threadgroup T x[N];` in a function: one object for all threads of the threadgroup.

        It becomes a reference into the threadgroup's memory. A type local to the function
        identifies the variable, so that each instantiation of a template has its own.
        """
        end = index
        while self.tokens[end] != ";":
            end = self.pairs.get(end, end) + 1
            if end >= len(self.tokens) or self.tokens[end] in ("*", "&", "=", "("):
                return None
        if len(split_commas(self.tokens[index:end])) > 1:
            raise TranslateError("several threadgroup variables in one declaration")
        name = end
        opening = {close: open_ for open_, close in self.pairs.items()}
        while True:
            name -= 1
            if self.tokens[name] == "]":
                name = opening[name]
            elif not is_space(self.tokens[name]):
                break
        kind = "".join(self.run(index + 1, name)).strip()
        extent = "".join(self.run(name + 1, end)).strip()
        name = self.tokens[name]
        text = (
            f"typedef {kind} msl_{name}{extent}; struct msl_{name}_id; msl_{name}& {name} ="
            f' msl::threadgroup_variable<msl_{name}, msl_{name}_id>("{name}")'
        )
        return [text], end

    def vector_cast(self, index):
        """`(float4)x` converts the elements in Metal; in C++ it would reinterpret the bits.

        Of the operators that can be overloaded, `->*` is the one that binds like a cast.
        """
        kind = next_word(self.tokens, index)
        close = self.pairs[index]
        if (
            kind < close
            and VECTOR.fullmatch(self.tokens[kind])
            and next_word(self.tokens, kind) == close
            and not re.fullmatch(r"(?!return$)\w+|\)|\]", self.previous)
            and re.match(r"[\w(.*&-]", self.word_after(close))
        ):
            return [f"msl::Convert<{self.tokens[kind]}>{{}}->*"], close + 1
        return ["("], index + 1


def single_default_constructors(tokens):
    """`X() thread = default; X() device = default;` declares a constructor per address space.

    One is left of them, without `constexpr`: C++17 wants a constexpr constructor to initialise all.
    """
    out, scopes, start = [], [set()], 0
    for token in tokens:
        if token == "{":
            scopes.append(set())
        elif token == "}" and len(scopes) > 1:
            scopes.pop()
        out.append(token)
        if token == ";":
            member = words(out[start:])
            if member[-5:] == ["(", ")", "=", "default", ";"]:
                name = "".join(word for word in member[:-5] if word != "constexpr")
                new = name not in scopes[-1]
                scopes[-1].add(name)
                out[start:] = blank(out[start:]) + ([f"{name}() = default;"] if new else [])
        if token in ("{", "}", ";"):
            start = len(out)
    return out
