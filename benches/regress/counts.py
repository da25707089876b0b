"""Holds the instructions of single steps of work to those of counts.txt; `run.sh` starts it.

Each program runs twice, with fewer and with more steps: the difference is theirs, without what loading,
threads and the end take. There is one thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import subprocess
import sys
import tempfile
from pathlib import Path

COUNTS = Path(__file__).with_name("counts.txt")
MODEL = Path("assets/tiny-coder")
ALLOWED = 0.05
OPTIONS = {
    "device": "cpu",
    "clock": "wall",
    "dtype": "f32",
    "threads": 1,
    "rounds": 1,
    "prompt": 16,
    "tokens": 2,
    "texts": 4,
    "rows": 1,
    "length": 32,
    "checkpointing": "false",
}


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    what: str
    changed: str
    """The option that says how many steps there are."""
    values: tuple[int, int]
    steps: int
    """By how many steps the two runs differ."""
    options: dict[str, object]


def decode(name: str, **options: object) -> Case:
    # Two calls, of which the first is to warm up.
    return Case(name, "decode", "tokens", (2, 6), 8, options)


CASES = [
    decode("decode f32"),
    decode("decode bf16", dtype="bf16"),
    decode("decode Q8_0", kind="Q8_0", dtype="auto"),
    decode("decode Q4_K", kind="Q4_K", dtype="auto"),
    Case("prefill 80", "prefill", "rounds", (1, 2), 1, {"prompt": 80}),
    Case("train 1 x 32", "train", "rounds", (1, 2), 1, {}),
]


def instructions(line: list[str]) -> int:
    valgrind = ["valgrind", "--tool=cachegrind", "--cache-sim=no"]
    valgrind += ["--cachegrind-out-file=/dev/null", "--fair-sched=yes"]
    done = subprocess.run([*valgrind, *line], capture_output=True, text=True, check=False)
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    if done.returncode != 0 or not found:
        sys.exit(f"{' '.join(line)} failed:\n{done.stderr}")
    return int(found[1].replace(",", ""))


def count(program: str, case: Case, folder: Path) -> int:
    options = OPTIONS | case.options
    model = MODEL
    if kind := options.pop("kind", None):
        model = folder / f"{kind}.gguf"
        if not model.exists():
            subprocess.run([program, "save", str(kind), str(MODEL), str(model)], check=True)
    totals = []
    for value in case.values:
        values = options | {"model": model, case.changed: value}
        flags = [part for name, value in values.items() for part in (f"--{name}", str(value))]
        totals.append(instructions([program, case.what, *flags]))
    return (totals[1] - totals[0]) // case.steps


def compiler() -> str:
    found = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def is_of_this_compiler() -> bool:
    return not COUNTS.exists() or f"# {compiler()}\n" in COUNTS.read_text(encoding="utf-8")


def known() -> dict[str, int]:
    if not COUNTS.exists():
        return {}
    lines = COUNTS.read_text(encoding="utf-8").splitlines()
    pairs = (line.rsplit(":", 1) for line in lines if line and not line.startswith("#"))
    return {name: int(value.replace(",", "")) for name, value in pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program")
    parser.add_argument("--bless", action="store_true", help="write what is counted")
    parser.add_argument("--only", default="", help="a regular expression that names cases")
    options = parser.parse_args()
    before, found, worse = known(), {}, []
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            if not re.search(options.only, case.name):
                continue
            found[case.name] = count(options.program, case, Path(folder))
            change = ""
            if case.name in before:
                share = found[case.name] / before[case.name] - 1
                change = f" ({share:+.1%})"
                if share > ALLOWED:
                    worse.append(case.name)
                    change += " MORE THAN ALLOWED"
                elif share < -ALLOWED:
                    change += " better: write it down with --bless"
            elif not options.bless:
                worse.append(case.name)
                change = " NOT IN counts.txt"
            print(f"{case.name}: {found[case.name]:,}{change}", flush=True)
    if options.bless:
        head = "# Instructions of one token or step, on one thread with AVX2; run.sh --bless writes them.\n"
        head += f"# {compiler()}\n"
        lines = (f"{name}: {value:,}\n" for name, value in (before | found).items())
        COUNTS.write_text(head + "".join(lines), encoding="utf-8")
    elif worse and not is_of_this_compiler():
        print(f"counts.txt is of another compiler than {compiler()}; nothing is held to it")
    elif worse:
        sys.exit(f"not as counts.txt says: {', '.join(worse)}")


if __name__ == "__main__":
    main()
