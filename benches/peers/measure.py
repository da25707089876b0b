"""What is measured of a peer, in the same way for each; `ours.rs` does the same for this library.

One measurement is one process and one line of JSON:

- decode: tokens per second after a prompt, one at a time, each chosen greedily;
- prefill: tokens per second of a prompt, to the choice of the first token;
- start: seconds to load, and from there to the first token of a first prompt;
- batch: tokens per second of several texts at once and of one, without their prompts;
- train: tokens per second of LoRA steps of rank 8 on all seven projections with AdamW, and the peak of
  resident memory.

Where there are rounds the median counts; the first one warms up and does not.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Protocol

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANK = 8
ALPHA = 16
LEARNING_RATE = 1e-4


class Engine(Protocol):
    """A model in a peer."""

    def begin(self, prompts: list[list[int]], room: int) -> None:
        """Forgets all, reads the prompts, and chooses a token for each. `room` is for how many tokens a
        text needs at most."""

    def step(self) -> None:
        """Reads the chosen tokens and chooses the next ones. They are on the host when it returns."""

    def trainer(self, rows: list[list[int]], checkpointing: bool) -> Callable[[], None]:
        """What makes a step on the rows, whose loss is on the host when it returns."""


def ids(start: int, count: int) -> list[int]:
    """The ids that every program reads: of the vocabulary, and none of them special."""
    return [100 + (start * 31 + i * 7) % 5000 for i in range(count)]


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def median(rounds: int, call: Callable[[], float]) -> float:
    """The median of what the calls give after a first one."""
    call()
    return statistics.median(call() for _ in range(rounds))


def steps(engine: Engine, texts: int, prompt: int, tokens: int) -> float:
    """Tokens per second after the first ones."""
    engine.begin([ids(text, prompt) for text in range(texts)], prompt + tokens)
    taken = seconds(lambda: [engine.step() for _ in range(tokens - 1)] and None)
    return texts * (tokens - 1) / taken


def measure(load: Callable[[str, str, int], Engine], options: argparse.Namespace) -> dict[str, float]:
    start = time.perf_counter()
    engine = load(options.model, options.dtype, options.threads)
    loaded = time.perf_counter() - start
    prompt, rounds = options.prompt, options.rounds

    def read() -> float:
        return seconds(lambda: engine.begin([ids(0, prompt)], prompt + 1))

    if options.what == "decode":
        rate = median(rounds, lambda: steps(engine, 1, prompt, options.tokens))
        return {"tokens_per_second": rate}
    if options.what == "prefill":
        return {"tokens_per_second": prompt / median(rounds, read)}
    if options.what == "start":
        return {"load_s": loaded, "first_token_s": read()}
    if options.what == "batch":
        one = median(rounds, lambda: steps(engine, 1, prompt, options.tokens))
        many = median(rounds, lambda: steps(engine, options.texts, prompt, options.tokens))
        return {"tokens_per_second": many, "one": one}
    rows = [ids(row, options.length) for row in range(options.rows)]
    step = engine.trainer(rows, options.checkpointing == "true")
    size = options.rows * options.length
    return {"tokens_per_second": median(rounds, lambda: size / seconds(step))}


def main(load: Callable[[str, str, int], Engine]) -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["decode", "prefill", "start", "batch", "train"])
    for name in ["model", "dtype", "device", "checkpointing"]:
        parser.add_argument(f"--{name}", required=True)
    for name in ["threads", "rounds", "prompt", "tokens", "texts", "rows", "length"]:
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    found = measure(load, options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found["peak_bytes"] = peak * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps(found))
