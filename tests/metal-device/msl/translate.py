"""Metal source, already preprocessed, to C++ for the headers in `shim/`.

Only statements at namespace scope are looked at: kernels, their instantiations, function constants,
and definitions that differ in an address space alone. Types are never parsed; the C++ compiler
deduces them from the address of a kernel (`msl::call` in shim/bind.h).
"""

import re
from collections import namedtuple

from rewrites import ADDRESS_SPACES, rewrite
from tokens import (
    TranslateError,
    blank,
    brackets,
    closing_angle,
    next_word,
    place,
    split_attributes,
    split_commas,
    tokenize,
    words,
)

# The built-in arguments of a kernel; shim/bind.h has an enumerator of the same name for each.
BUILTINS = {
    "dispatch_threads_per_threadgroup",
    "simdgroup_index_in_threadgroup",
    "simdgroups_per_threadgroup",
    "thread_index_in_simdgroup",
    "thread_index_in_threadgroup",
    "thread_position_in_grid",
    "thread_position_in_threadgroup",
    "threadgroup_position_in_grid",
    "threadgroups_per_grid",
    "threads_per_grid",
    "threads_per_simdgroup",
    "threads_per_threadgroup",
}

# The functions in which a thread may have to wait for others. A kernel that calls none of them runs
# its threads one after the other, which is a lot faster.
WAITING = {
    "simd_all",
    "simd_and",
    "simd_any",
    "simd_broadcast",
    "simd_max",
    "simd_min",
    "simd_or",
    "simd_prefix_exclusive_product",
    "simd_prefix_exclusive_sum",
    "simd_prefix_inclusive_product",
    "simd_prefix_inclusive_sum",
    "simd_product",
    "simd_shuffle",
    "simd_shuffle_down",
    "simd_shuffle_up",
    "simd_shuffle_xor",
    "simd_sum",
    "simd_xor",
    "simdgroup_barrier",
    "simdgroup_multiply",
    "simdgroup_multiply_accumulate",
    "threadgroup_barrier",
}

UNROLL = re.compile(r"\s*#\s*pragma (?:clang loop unroll|unroll)")

# tokens: as C++; names: the words in it; defines: what it defines, or None; is_plain_kernel:
# whether it is a kernel and no template.
Statement = namedtuple("Statement", "tokens names defines is_plain_kernel")
# host: the name by which the host asks for it; expression: the kernel or its instantiation.
Entry = namedtuple("Entry", "host expression kernel names")


def translate(text, function=None):
    """The C++ for preprocessed Metal source; with `function`, only for that entry point."""
    program = Program()
    # Unrolled loops take up to three times as long to compile, and run no faster here.
    tokens = [token for token in tokenize(text) if not UNROLL.match(token)]
    for start, end in statements(tokens):
        try:
            program.add(tokens[start:end])
        except TranslateError as error:
            at = place(tokens, next_word(tokens, start - 1))
            raise TranslateError(f"{at}: {error}") from None
    return program.output(function)


def statements(tokens):
    """The spans of the statements at namespace scope."""
    pairs = brackets(tokens)
    start = index = 0
    while index < len(tokens):
        token = tokens[index]
        index = pairs.get(index, index) + 1
        if token == ";" or (token == "{" and is_definition(tokens[start:index])):
            yield start, index
            start = index
    if words(tokens[start:]):
        raise TranslateError(f"{place(tokens, start)}: the last statement has no end")


def head(tokens):
    """The words of a statement before its body, without attributes and template parameters."""
    found = words(split_attributes(tokens)[0])
    if found[:2] == ["template", "<"]:
        found = found[closing_angle(found, 1) + 1 :]
    pairs = brackets(found)
    index = 0
    while index < len(found) and found[index] != "{":
        index = pairs.get(index, index) + 1
    return found[:index]


def is_definition(tokens):
    """Whether the braces at the end of the statement so far are the body of a function.

    Those of a type or of an initialiser are followed by a semicolon.
    """
    start = head(tokens)
    if not start or start[0] in ("struct", "class", "union", "enum", "typedef", "using"):
        return False
    pairs = brackets(start)
    index, has_parameters = 0, False
    while index < len(start):
        if start[index] == "=":
            return False
        has_parameters = has_parameters or start[index] == "("
        index = pairs.get(index, index) + 1
    return has_parameters or start[0] in ("namespace", "extern")


def defined_name(start):
    """The name that a statement with this head defines, if it can have code that waits."""
    if not start:
        return None
    if start[0] in ("struct", "class", "union"):
        names = [word for word in start[1:] if word.isidentifier() and word != "alignas"]
        return names[0] if names else None
    if start[0] == "using":
        return start[1]
    if start[0] == "typedef":
        return start[-2]
    for index, word in enumerate(start):
        if word in ("(", "=", "[", ";"):
            return start[index - 1]
    return None


def without_address_spaces(start):
    """(the words with all address spaces made one, whether there was one)."""
    out, found = [], False
    for word in start:
        found = found or word in ADDRESS_SPACES or word == "constant"
        if word in ADDRESS_SPACES:
            continue
        word = "const" if word == "constant" else word
        if word != "const" or out[-1:] != ["const"]:
            out.append(word)
    return " ".join(out), found


def parameter_binding(tokens, buffers, threadgroups):
    """What is passed for a parameter of a kernel, as a type of shim/bind.h.

    Pointers without an attribute are numbered in order, as by Metal's compiler.
    """
    rest, attributes = split_attributes(tokens)
    for name, argument in attributes.items():
        if name in ("buffer", "threadgroup"):
            return name, int("".join(argument))
        if name in BUILTINS:
            return name, None
    if "threadgroup" in rest:
        return "threadgroup", threadgroups
    if "device" in rest or "constant" in rest:
        return "buffer", buffers
    raise TranslateError(f"kernel parameter `{' '.join(words(tokens))}` has no known attribute")


def kernel_parameters(tokens):
    """The bindings of all parameters of a kernel."""
    bindings, following = [], {"buffer": 0, "threadgroup": 0}
    for part in split_commas(tokens):
        kind, number = parameter_binding(part, following["buffer"], following["threadgroup"])
        if kind in following:
            following[kind] = number + 1
            bindings.append(f"msl::{kind.capitalize()}<{number}>")
        else:
            bindings.append(f"msl::Builtin<msl::BuiltinName::{kind}>")
    return bindings


def string_value(tokens):
    """The value of adjacent string literals."""
    return "".join(token[1:-1] for token in tokens)


def c_string(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Program:
    """The statements read so far, and what the tables of the library need to know about them."""

    def __init__(self):
        self.statements = []
        self.entries = {}
        self.kernels = {}
        self.constants = {}
        self.signatures = set()

    def add(self, tokens):
        """Classifies a statement and keeps its C++."""
        plain, attributes = split_attributes(tokens)
        found = words(plain)
        if "kernel" in attributes or "kernel" in found:
            host = string_value(attributes["host_name"]) if "host_name" in attributes else None
            if found[0] == "template" and found[1] != "<":
                self.add_instantiation(found, host)
                self.keep(blank(tokens))
            else:
                self.add_kernel(tokens, host)
        elif "function_constant" in attributes and "(" not in found:
            self.add_constant(tokens, found, attributes["function_constant"])
        elif self.depends_on_constants(found):
            self.add_derived_constant(tokens, found)
        elif self.is_duplicate(tokens):
            self.keep(blank(tokens))
        else:
            self.keep(rewrite(tokens), found, defined_name(head(tokens)))

    def keep(self, tokens, names=(), defines=None, is_plain_kernel=False):
        self.statements.append(Statement(tokens, set(names), defines, is_plain_kernel))

    def add_constant(self, tokens, found, number):
        """A function constant becomes a variable, which the host sets before each dispatch."""
        kind = " ".join(word for word in found[:-2] if word not in ("constant", "static"))
        name = found[-2]
        self.constants[name] = int("".join(number))
        self.keep(blank(tokens) + [f"static {kind} {name};"], found, name)

    def depends_on_constants(self, found):
        if "=" not in found or found[0] != "constant":
            return False
        value = found.index("=")
        return "(" not in found[:value] and any(word in self.constants for word in found[value:])

    def add_derived_constant(self, tokens, found):
        """A constant computed from function constants is computed at each use.

        As a variable it would keep the value of the time at which the library was loaded.
        """
        value = found.index("=")
        kind, name = " ".join(found[1 : value - 1]), found[value - 1]
        expression = "".join(rewrite(found[value + 1 : -1]))
        text = f"static struct {{ operator {kind}() const {{ return {expression}; }} }} {name};"
        self.keep(blank(tokens) + [text], found, name)

    def is_duplicate(self, tokens):
        """Whether the statement is an overload or specialisation for another address space only."""
        if "{" not in tokens:
            return False
        plain = words(split_attributes(tokens)[0])
        signature, has_space = without_address_spaces(plain[: plain.index("{")])
        known = signature in self.signatures
        self.signatures.add(signature)
        return known and has_space

    def add_instantiation(self, found, host):
        """`template kernel TYPE name<...>;`: left out, because the entry point instantiates it."""
        found = [word for word in found if word not in ("kernel", ";")]
        if found[-1] == ")":
            pairs = brackets(found)
            found = found[: next(start for start, end in pairs.items() if end == len(found) - 1)]
        pairs = brackets(found)
        index = 1
        while index < len(found):
            if found[index] == "<":
                end = closing_angle(found, index)
                if end == len(found) - 1:
                    name = found[index - 1]
                    self.add_entry(host or name, rewrite(found[index - 1 :]), name, found)
                    return
                index = end
            index = pairs.get(index, index) + 1
        raise TranslateError(f"no template arguments in `{' '.join(found)}`")

    def add_kernel(self, tokens, host):
        """The definition of a kernel, or of a template of kernels."""
        start = head(tokens)
        name = defined_name([word for word in start if word != "kernel"])
        index = self.parameters_at(tokens, name)
        self.kernels.setdefault(
            name, kernel_parameters(tokens[index + 1 : brackets(tokens)[index]])
        )
        found = words(tokens)
        is_template = words(split_attributes(tokens)[0])[0] == "template"
        cpp = rewrite([token for token in tokens if token != "kernel"])
        if not is_template:
            self.add_entry(host or name, [name], name, ())
            first = next_word(cpp, -1)
            cpp = cpp[:first] + ["static "] + cpp[first:]
        self.keep(cpp, found, name, is_plain_kernel=not is_template)

    def parameters_at(self, tokens, name):
        for index, token in enumerate(tokens):
            if token == name and tokens[next_word(tokens, index)] == "(":
                return next_word(tokens, index)
        raise TranslateError(f"kernel `{name}` has no parameters")

    def add_entry(self, host, expression, kernel, names):
        expression = " ".join(words(expression))
        known = self.entries.setdefault(host, Entry(host, expression, kernel, set(names)))
        if known.expression != expression:
            raise TranslateError(
                f"entry point `{host}` is both {known.expression} and {expression}"
            )

    def reachable(self, entry):
        """All names that an entry point can use: its own words and those of what they define."""
        definitions = {}
        for statement in self.statements:
            if statement.defines:
                definitions.setdefault(statement.defines, set()).update(statement.names)
        known, open_ = set(), entry.names | {entry.kernel}
        while open_:
            name = open_.pop()
            known.add(name)
            open_ |= definitions.get(name, set()) - known
        return known

    def output(self, function):
        """The C++ text: all statements, the entry points and the tables of the library."""
        if function is not None and function not in self.entries:
            raise TranslateError(f"no function `{function}` in the source")
        entries = [self.entries[function]] if function else list(self.entries.values())
        names = {entry.host: self.reachable(entry) for entry in entries}
        out = ['#include "shim.h"\n']
        for statement in self.statements:
            # The body of a kernel that is not asked for would only cost time, if it is no template.
            wanted = (
                function is None
                or not statement.is_plain_kernel
                or statement.defines in names[function]
            )
            out.append("".join(statement.tokens if wanted else blank(statement.tokens)))
        out.append("\n")
        rows = []
        for number, entry in enumerate(entries):
            if entry.kernel not in self.kernels:
                raise TranslateError(
                    f"`{entry.host}` instantiates `{entry.kernel}`: no such kernel"
                )
            bindings = ", ".join(self.kernels[entry.kernel])
            call = f"msl::call(dispatch, &{entry.expression}, msl::Parameters<{bindings}>{{}});"
            out.append(f"static void entry_{number}(const MslDispatch& dispatch) {{ {call} }}\n")
            fibers = int(bool(names[entry.host] & WAITING))
            rows.append(f"{{{c_string(entry.host)}, (void*)entry_{number}, {fibers}}}")
        out.append(table("MslFunction msl_functions", rows + ["{nullptr, nullptr, 0}"]))
        rows = [
            f"{{{c_string(name)}, {number}, (void*)&{name}, sizeof({name})}}"
            for name, number in self.constants.items()
        ]
        out.append(table("MslConstant msl_constants", rows + ["{nullptr, 0, nullptr, 0}"]))
        return "".join(out)


def table(name, rows):
    return f'extern "C" const {name}[] = {{\n  ' + ",\n  ".join(rows) + "};\n"
