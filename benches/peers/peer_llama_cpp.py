"""llama.cpp, by its C API: a step is llama_decode of one token for each text and a greedy choice.

Everything but the number of threads is as llama.cpp has it by default. It does not train adapters.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import llama_cpp
import measure


class LlamaCpp:
    def __init__(self, path: str, threads: int) -> None:
        self.log = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.log, ctypes.c_void_p())
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params()
        )
        if not self.model:
            raise RuntimeError(f"{path} was not loaded")
        vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self.threads = threads
        self.context = None
        self.size = (0, 0)
        self.greedy = llama_cpp.llama_sampler_init_greedy()
        self.batch = llama_cpp.llama_batch_init(8192, 0, 1)
        self.chosen: list[int] = []
        self.position = 0

    def open(self, texts: int, room: int) -> None:
        """A context of that size, or the one there is, emptied."""
        if self.size != (texts, room):
            if self.context:
                llama_cpp.llama_free(self.context)
            params = llama_cpp.llama_context_default_params()
            params.n_ctx = texts * room
            params.n_seq_max = texts
            params.n_threads = params.n_threads_batch = self.threads
            self.context = llama_cpp.llama_init_from_model(self.model, params)
            self.size = (texts, room)
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def decode(self, tokens: list[tuple[int, int, int, bool]]) -> None:
        """Reads tokens, each with its position, its text, and whether one is chosen after it."""
        batch = self.batch
        batch.n_tokens = len(tokens)
        wanted = []
        for i, (token, position, text, last) in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = text
            batch.logits[i] = last
            if last:
                wanted.append(i)
        if llama_cpp.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        self.chosen = [
            llama_cpp.llama_sampler_sample(self.greedy, self.context, i) for i in wanted
        ]

    def begin(self, prompts: list[list[int]], room: int) -> None:
        self.open(len(prompts), room)
        chosen = []
        for text, prompt in enumerate(prompts):
            end = len(prompt) - 1
            self.decode([(token, i, text, i == end) for i, token in enumerate(prompt)])
            chosen += self.chosen
        self.chosen = chosen
        self.position = len(prompts[0])

    def step(self) -> None:
        self.decode([(token, self.position, i, True) for i, token in enumerate(self.chosen)])
        self.position += 1

    def trainer(self, rows: list[list[int]], checkpointing: bool) -> Callable[[], None]:
        raise NotImplementedError


if __name__ == "__main__":
    measure.main(lambda model, _dtype, threads: LlamaCpp(model, threads))
