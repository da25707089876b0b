"""Tokens of preprocessed Metal source, and the few questions about them that need no grammar.

A token is a string; all of them joined give the text back. Spaces and linemarkers, as `# 12
"x.metal"`, are tokens as well, so that the translated file keeps the line numbers of the source and
the compiler's messages point into it.
"""

import re

TOKEN = re.compile(
    r"""
      ^[ \t]*\#[^\n]*(?=\n|\Z)         # a linemarker or a pragma
    | "(?:[^"\\\n]|\\.)*"              # a string
    | '(?:[^'\\\n]|\\.)*'              # a character
    | [A-Za-z_]\w*                     # a word
    | \.?\d(?:[eEpP][+-]|[\w.])*       # a number
    | \s+?(?=^[ \t]*\#)|\s+            # space, up to the next directive
    | ::|->|&&|\|\||==|!=|<=|>=|<<|\+=|-=|\*=|/=|%=|&=|\|=|\^=
    | .                                # `>` is always alone: `>>` may close two template lists
    """,
    re.VERBOSE | re.MULTILINE,
)
MARKER = re.compile(r'\s*#\s*(?:line\s+)?(\d+)\s+"([^"]*)"')
CLOSING = {"(": ")", "{": "}", "[": "]"}


class TranslateError(Exception):
    """The source has something that the translation does not know."""


def tokenize(text):
    return TOKEN.findall(text)


def is_space(token):
    return token.isspace() or token.lstrip().startswith("#")


def words(tokens):
    """The tokens without spaces and linemarkers."""
    return [token for token in tokens if not is_space(token)]


def blank(tokens):
    """Only the spaces and linemarkers: what remains where a statement is left out."""
    return [token for token in tokens if is_space(token)]


def place(tokens, index):
    """`file:line` of a token, for messages."""
    file, line = "line ", 1
    for token in tokens[:index]:
        marker = MARKER.match(token)
        if marker:
            # The marker numbers the line after it, and its own line end is still to come.
            line, file = int(marker.group(1)) - 1, marker.group(2) + ":"
        line += token.count("\n")
    return f"{file}{line}"


def brackets(tokens):
    """The index of the closing bracket for the index of each opening `(`, `[` and `{`."""
    pairs, open_ = {}, []
    for index, token in enumerate(tokens):
        if token in CLOSING:
            open_.append(index)
        elif token in (")", "}", "]"):
            if not open_ or CLOSING[tokens[open_[-1]]] != token:
                raise TranslateError(f"{place(tokens, index)}: unexpected `{token}`")
            pairs[open_.pop()] = index
    if open_:
        raise TranslateError(f"{place(tokens, open_[-1])}: `{tokens[open_[-1]]}` is never closed")
    return pairs


def next_word(tokens, index):
    """The index of the first token after `index` that is no space, or the number of tokens."""
    index += 1
    while index < len(tokens) and is_space(tokens[index]):
        index += 1
    return index


def closing_angle(tokens, index):
    """The index of the `>` which closes the template list opened at `index`."""
    depth = 0
    pairs = None
    while index < len(tokens):
        token = tokens[index]
        if token in CLOSING:
            # Inside of brackets `<` compares.
            pairs = pairs or brackets(tokens)
            index = pairs[index]
        elif token == "<":
            depth += 1
        elif token == ">":
            depth -= 1
            if depth == 0:
                return index
        index += 1
    raise TranslateError(f"template list is never closed in `{' '.join(words(tokens))[:200]}`")


def split_commas(tokens):
    """The parts of a list, split at its own commas."""
    parts, depth = [[]], 0
    for token in tokens:
        if token in "([{<":
            depth += 1
        elif token in ")]}>":
            depth -= 1
        if token == "," and depth == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return [part for part in parts if words(part)]


def is_attribute(tokens, index):
    """Whether `[[` starts here. A subscript never does: `x[[` would have to be a lambda."""
    return tokens[index] == "[" and index + 1 < len(tokens) and tokens[index + 1] == "["


def split_attributes(tokens):
    """(the tokens without attributes, {name of an attribute: tokens of its argument})."""
    pairs = brackets(tokens)
    rest, attributes, index = [], {}, 0
    while index < len(tokens):
        if is_attribute(tokens, index):
            end = pairs[index]
            for part in split_commas(tokens[index + 2 : end - 1]):
                part = words(part)
                attributes[part[0]] = part[2:-1]
            rest += blank(tokens[index : end + 1])
            index = end + 1
        else:
            rest.append(tokens[index])
            index += 1
    return rest, attributes
