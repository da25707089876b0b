"""Tables of what was measured, and where they go."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import cases

FLAGS = ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16"]


@dataclasses.dataclass
class Entry:
    """What one entrant found in the rounds of a case, or why it found nothing."""

    found: list[dict[str, float]] = dataclasses.field(default_factory=list)
    missing: str = ""


Results = dict[str, dict[str, Entry]]
Measure = Callable[[dict[str, float]], float]


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the table that a case gives."""

    suffix: str
    value: Measure
    more_is_better: bool = True


RATE = Line(", tokens/s", lambda found: found["tokens_per_second"])
PEAK = Line(", peak MB", lambda found: found["peak_bytes"] / 1e6, False)
LINES = {
    "decode": [RATE],
    "prefill": [RATE],
    "start": [
        Line(": load, ms", lambda found: 1e3 * found["load_s"], False),
        Line(": first token after 32, ms", lambda found: 1e3 * found["first_token_s"], False),
        PEAK,
    ],
    "batch": [RATE, Line(", against one", lambda found: found["tokens_per_second"] / found["one"])],
    "train": [RATE, PEAK],
}


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def cell(entry: Entry | None, value: Measure) -> str:
    """The median, and the range where there are several."""
    if entry is None:
        return ""
    values = sorted(value(found) for found in entry.found)
    if not values:
        return entry.missing
    median = number(statistics.median(values))
    return median if len(values) == 1 else f"{median} ({number(values[0])} to {number(values[-1])})"


def ratio(entries: dict[str, Entry], line: Line) -> str:
    """How many times better this library is than the best of the others."""
    medians = {
        name: statistics.median(line.value(found) for found in entry.found)
        for name, entry in entries.items()
        if entry.found
    }
    ours = medians.pop(cases.OURS, None)
    if ours is None or not medians:
        return ""
    best = max(medians.values()) if line.more_is_better else min(medians.values())
    return f"{ours / best if line.more_is_better else best / ours:.2f} ×"


def machine(threads: int, clock: str) -> str:
    """The machine, the versions and the date, in a sentence or two."""
    cpu, features = platform.processor() or platform.machine(), ""
    if platform.system() == "Darwin":
        brand = ["sysctl", "-n", "machdep.cpu.brand_string"]
        cpu = subprocess.run(brand, capture_output=True, text=True, check=False).stdout.strip()
    info = Path("/proc/cpuinfo")
    if info.exists():
        text = info.read_text(encoding="utf-8")
        cpu = next(iter(re.findall(r"model name\s*:\s*(.*)", text)), cpu)
        has = set(" ".join(re.findall(r"^flags\s*:\s*(.*)", text, re.M)[:1]).split())
        features = " with " + ", ".join(flag for flag in FLAGS if flag in has)
    packages = ["llama-cpp-python", "mlx-lm", "mlx", "transformers", "peft", "torch"]
    versions = []
    for name in packages:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    of = f", commit {commit}" if commit else ""
    return (
        f"Measured on {time.strftime('%Y-%m-%d')}{of}: {cpu}{features}, {threads} threads, by the {clock} clock, "
        f"{platform.system()}; {', '.join(versions)}."
    )


def render(chosen: list[cases.Case], results: Results, options: argparse.Namespace) -> str:
    names = list(dict.fromkeys(name for case in chosen for name in results[case.name]))
    rows = [["", *names, "ours against the best"], ["---"] * (len(names) + 2)]
    for case in chosen:
        entries = results[case.name]
        for line in LINES[case.what]:
            cells = [cell(entries.get(name), line.value) for name in names]
            rows.append([case.title + line.suffix, *cells, ratio(entries, line)])
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"{machine(options.threads, options.clock)}\n\n{table}"
