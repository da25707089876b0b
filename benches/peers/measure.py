"""What is measured of a peer, in the same way for each; `ours.rs` does the same for this library.

One measurement is one process and one line of JSON:

- decode: tokens per second after a prompt, one at a time, each chosen greedily;
- prefill: tokens per second of a prompt, to the choice of the first token;
- start: seconds to load, and from there to the first token of a first prompt;
- batch: tokens per second of several texts at once and of one, without their prompts;
- train: tokens per second of LoRA steps of rank 8 on all seven projections with AdamW, and the peak of
  resident memory.

Where there are rounds the median counts; the first one warms up and does not. The clock is that of the wall
or, for one thread on a busy machine, the CPU time of the process.
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


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Clock = Callable[[], float]


def seconds(clock: Clock, work: Callable[[], None]) -> float:
    start = clock()
    work()
    return clock() - start


def median(rounds: int, call: Callable[[], float]) -> float:
    """The median of what the calls give after a first one."""
    call()
    return statistics.median(call() for _ in range(rounds))


def steps(engine: Engine, clock: Clock, texts: int, prompt: int, tokens: int) -> float:
    """Tokens per second after the first ones."""
    engine.begin([ids(text, prompt) for text in range(texts)], prompt + tokens)
    start = clock()
    for _ in range(tokens - 1):
        engine.step()
    return texts * (tokens - 1) / (clock() - start)


def measure(load: Callable[[str, str, int], Engine], options: argparse.Namespace) -> dict[str, float]:
    clock = CLOCKS[options.clock]
    start = clock()
    engine = load(options.model, options.dtype, options.threads)
    loaded = clock() - start
    prompt, rounds = options.prompt, options.rounds

    def read() -> float:
        return seconds(clock, lambda: engine.begin([ids(0, prompt)], prompt + 1))

    def generate(texts: int) -> float:
        return median(rounds, lambda: steps(engine, clock, texts, prompt, options.tokens))

    if options.what == "decode":
        return {"tokens_per_second": generate(1)}
    if options.what == "prefill":
        return {"tokens_per_second": prompt / median(rounds, read)}
    if options.what == "start":
        return {"load_s": loaded, "first_token_s": read()}
    if options.what == "batch":
        return {"one": generate(1), "tokens_per_second": generate(options.texts)}
    rows = [ids(row, options.length) for row in range(options.rows)]
    step = engine.trainer(rows, options.checkpointing == "true")
    size = options.rows * options.length
    return {"tokens_per_second": median(rounds, lambda: size / seconds(clock, step))}


def main(load: Callable[[str, str, int], Engine]) -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["decode", "prefill", "start", "batch", "train"])
    parser.add_argument("--clock", choices=CLOCKS, required=True)
    for name in ["model", "dtype", "device", "checkpointing"]:
        parser.add_argument(f"--{name}", required=True)
    for name in ["threads", "rounds", "prompt", "tokens", "texts", "rows", "length"]:
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    found = measure(load, options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found["peak_bytes"] = peak * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps(found))
