"""What is compared, and who takes part in it with which files."""

from __future__ import annotations

import dataclasses

OURS = "metal-candle"
LLAMA_CPP = "llama.cpp"
MLX = "mlx-lm"
TRANSFORMERS = "transformers"
"""With PEFT, where it trains."""

Entrants = dict[str, tuple[str, str]]
"""The file or directory in the models' folder, and the dtype, of each that takes part."""


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    title: str
    what: str
    entrants: Entrants
    options: dict[str, object] = dataclasses.field(default_factory=dict)


def read(number_format: str) -> Entrants:
    """Those that run a model in a format. On a CPU `auto` is what an application gets by default."""
    file = f"{number_format}.gguf"
    entrants = {OURS: (file, "auto"), LLAMA_CPP: (file, "auto")}
    if number_format in ("f16", "bf16"):
        entrants[MLX] = (number_format, number_format)
        entrants[TRANSFORMERS] = (number_format, number_format)
    else:
        entrants[MLX] = ("f16", "q8" if number_format == "q8_0" else "q4")
    return entrants


FORMATS = {"f16": "F16", "bf16": "BF16", "q8_0": "Q8_0", "q4_k_m": "Q4_K_M"}


def all_cases() -> list[Case]:
    cases = []
    for key, name in FORMATS.items():
        for prompt in (32, 512):
            title = f"decode after {prompt}, {name}"
            options = {"prompt": prompt}
            cases.append(Case(f"decode/{key}/{prompt}", title, "decode", read(key), options))
    for key, name in FORMATS.items():
        title = f"prefill of 512, {name}"
        cases.append(Case(f"prefill/{key}", title, "prefill", read(key), {"prompt": 512}))
    for key in ("f16", "q4_k_m"):
        title = f"start, {FORMATS[key]}"
        cases.append(Case(f"start/{key}", title, "start", read(key)))
    for key in ("f16", "q8_0"):
        title = f"8 texts at once, {FORMATS[key]}"
        cases.append(Case(f"batch/{key}", title, "batch", read(key)))
    for dtype in ("f32", "bf16"):
        train = {name: (dtype, dtype) for name in (OURS, TRANSFORMERS, MLX)}
        cases.append(Case(f"train/{dtype}", f"LoRA, 4 × 256, {dtype}", "train", train))
    return cases
