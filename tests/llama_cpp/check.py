"""Holds llama.cpp, running the GGUF files that this library writes, to this library itself.

Needs llama-cpp-python (pip install llama-cpp-python numpy) and the shared library:

    cargo build --lib
    python3 tests/llama_cpp/check.py assets/tiny-coder --texts texts.jsonl

A MODEL is a directory or file that the library loads, with a tokenizer. It is saved in every format
and loaded by llama.cpp. Then

- all strings in the lines of the JSONL files given by --texts must have the same tokens in both;
- both rate the tokens that this library generates greedily from the prompts: printed are how many of
  them are llama.cpp's first choice too, and by how much the log-probabilities differ.

It fails where texts have other tokens (which is so for text that begins with a space where the
tokenizer is one with byte fallback and a Metaspace; see Model::save_gguf), or where F16 or BF16 choose another token than the library by
more than the rounding of 16 bits explains.
"""

import argparse
import ctypes
import json
import os
import sys
import tempfile

import llama_cpp
import numpy

FORMATS = ["F16", "BF16", "Q8_0", "Q6_K", "Q4_K", "Q4_0"]
PROMPTS = [
    "fn main() {\n    let x = ",
    "def fibonacci(n):\n",
    "The capital of France is",
    "for (int i = 0; i < 10; i++) {",
    "import json\n\nclass ",
]
# The most by which a first choice may be behind another for the rounding of 16 bits, in nats; about
# twice what random weights give, whose logits lie close together.
ROUNDING = {"F16": 0.03, "BF16": 0.12}


class Library:
    """The few functions of the C API that are needed."""

    def __init__(self, path):
        self.c = ctypes.CDLL(path)
        self.c.mcandle_error_message.restype = ctypes.c_char_p
        self.c.mcandle_tokens_data.restype = ctypes.POINTER(ctypes.c_uint32)
        self.c.mcandle_tokens_length.restype = ctypes.c_size_t
        self.c.mcandle_generation_tokens.restype = ctypes.POINTER(ctypes.c_uint32)
        self.c.mcandle_generation_logprobs.restype = ctypes.POINTER(ctypes.c_float)
        self.c.mcandle_generate_options_new.restype = ctypes.c_void_p

    def call(self, name, *arguments):
        error = ctypes.c_void_p()
        if getattr(self.c, name)(*arguments, ctypes.byref(error)) != 0:
            sys.exit(f"{name}: {self.c.mcandle_error_message(error).decode()}")

    def make(self, name, *arguments):
        out = ctypes.c_void_p()
        self.call(name, *arguments, ctypes.byref(out))
        return out


class Model:
    """A model as this library runs it."""

    def __init__(self, library, path):
        self.library = library
        self.model = library.make("mcandle_model_load", path.encode(), None)
        self.tokenizer = library.make("mcandle_model_tokenizer", self.model)
        self.generator = library.make("mcandle_generator_new", self.model)

    def save(self, path, kind):
        # In the order of the MCANDLE_GGUF_ constants.
        number = ctypes.c_int32(FORMATS.index(kind))
        self.library.call("mcandle_model_save_gguf", self.model, path.encode(), number)

    def tokens(self, text):
        text = text.encode()
        length, special = ctypes.c_size_t(len(text)), ctypes.c_bool(True)
        tokens = self.library.make(
            "mcandle_tokenizer_encode", self.tokenizer, text, length, special
        )
        count = self.library.c.mcandle_tokens_length(tokens)
        ids = self.library.c.mcandle_tokens_data(tokens)[:count]
        self.library.c.mcandle_tokens_free(tokens)
        return ids

    def generate(self, prompt, count):
        """Greedy tokens after a prompt, and their log-probabilities."""
        c = self.library.c
        options = ctypes.c_void_p(c.mcandle_generate_options_new())
        c.mcandle_generate_options_set_max_tokens(options, ctypes.c_size_t(count))
        c.mcandle_generate_options_set_ignore_eos(options, ctypes.c_bool(True))
        c.mcandle_generate_options_set_top_logprobs(options, ctypes.c_size_t(1))
        prompt = prompt.encode()
        length = ctypes.c_size_t(len(prompt))
        generation = self.library.make(
            "mcandle_generator_generate", self.generator, prompt, length, options, None, None
        )
        number = ctypes.c_size_t()
        ids = c.mcandle_generation_tokens(generation, ctypes.byref(number))[: number.value]
        logprobs = c.mcandle_generation_logprobs(generation, ctypes.byref(number))[: number.value]
        c.mcandle_generation_free(generation)
        c.mcandle_generate_options_free(options)
        return ids, logprobs


def strings(value):
    """All strings in a JSON value."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [text for item in value for text in strings(item)] if isinstance(value, list) else []


def log_softmax(logits):
    logits = logits.astype(numpy.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - numpy.log(numpy.exp(logits).sum(axis=-1, keepdims=True))


def compare_tokens(model, llama, texts):
    """The number of texts that have other tokens in llama.cpp."""
    differences = 0
    for text in texts:
        ours = model.tokens(text)
        theirs = llama.tokenize(text.encode(), add_bos=True, special=True)
        if ours != theirs:
            differences += 1
            at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), None)
            if differences <= 3:
                print(f"  {text[:60]!r} from token {at}: {ours[at:][:8]}, {theirs[at:][:8]}")
    return differences


def compare_choices(model, llama, count):
    """How many tokens there are, how many are the first choice of both, the largest lead of another
    token in llama.cpp, and the largest difference of log-probabilities."""
    total = same = 0
    lead = difference = 0.0
    for prompt in PROMPTS:
        read = model.tokens(prompt)
        ids, logprobs = model.generate(prompt, count)
        llama.reset()
        llama.eval(read + ids)
        rows = log_softmax(llama.scores[len(read) - 1 : len(read) + len(ids) - 1])
        for row, id, logprob in zip(rows, ids, logprobs):
            total += 1
            same += int(row.argmax() == id)
            lead = max(lead, row.max() - row[id])
            difference = max(difference, abs(row[id] - logprob))
    return total, same, lead, difference


def check(library, path, texts, count):
    model = Model(library, path)
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for kind in FORMATS:
            file = os.path.join(folder, f"{kind}.gguf")
            model.save(file, kind)
            # Keys and values in f32, so that what differs is the weights.
            settings = dict(type_k=0, type_v=0, flash_attn=False, n_ctx=512, n_batch=512)
            llama = llama_cpp.Llama(file, logits_all=True, verbose=False, **settings)
            other = compare_tokens(model, llama, texts) if kind == FORMATS[0] else 0
            if kind == FORMATS[0]:
                print(f"{path}: {len(texts) - other} of {len(texts)} texts have the same tokens")
            total, same, lead, difference = compare_choices(model, llama, count)
            size = os.path.getsize(file) / 1e6
            print(
                f"  {kind:5} {size:8.2f} MB: {same} of {total} tokens chosen by both, "
                f"lead of others {lead:.4f}, log-probabilities differ by {difference:.4f}"
            )
            failures += other + int(lead > ROUNDING.get(kind, lead))
            llama.close()
    return failures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--texts", action="append", default=[], metavar="FILE")
    parser.add_argument("--tokens", type=int, default=32, help="to generate for each prompt")
    parser.add_argument("--library", default="target/debug/libmetal_candle.so")
    arguments = parser.parse_args()
    texts = list(PROMPTS)
    for path in arguments.texts:
        with open(path, encoding="utf-8") as lines:
            texts += [text for line in lines for text in strings(json.loads(line))]
    library = Library(os.path.abspath(arguments.library))
    failures = [check(library, path, texts, arguments.tokens) for path in arguments.models]
    sys.exit(1 if any(failures) else 0)


if __name__ == "__main__":
    main()
