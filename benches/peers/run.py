"""Compares this library with its peers; `run.sh` prepares what it needs and starts it.

Round after round, each case is measured by all who take part in it, one after the other and each in a
process of its own, so that whatever else the machine does meets all of them. Who needs longer than the
limit for one measurement is left out of that case. There are rounds until the time is over, but at least
one. Then the table of BENCHMARKS.md is written.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import cases
import document
import report

HERE = Path(__file__).parent
SCRIPTS = {
    cases.LLAMA_CPP: "peer_llama_cpp.py",
    cases.MLX: "peer_mlx_lm.py",
    cases.TRANSFORMERS: "peer_transformers.py",
}
DEFAULTS: dict[str, object] = {
    "rounds": 1,
    "prompt": 32,
    "tokens": 32,
    "texts": 8,
    "rows": 4,
    "length": 256,
    "checkpointing": "false",
}
THREADS = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"]


def command(case: cases.Case, entrant: str, options: argparse.Namespace) -> list[str]:
    model, dtype = case.entrants[entrant]
    values = DEFAULTS | case.options
    values |= {"model": options.models / model, "dtype": dtype}
    values |= {"device": options.device, "threads": options.threads, "clock": options.clock}
    flags = [part for name, value in values.items() for part in (f"--{name}", str(value))]
    if entrant == cases.OURS:
        return [str(options.ours), case.what, *flags]
    return [sys.executable, str(HERE / SCRIPTS[entrant]), case.what, *flags]


def measure(line: list[str], options: argparse.Namespace) -> dict[str, float] | str:
    """What the process found, or why it found nothing."""
    environment = os.environ | dict.fromkeys(THREADS, str(options.threads))
    try:
        done = subprocess.run(
            line,
            env=environment,
            timeout=options.limit,
            capture_output=True,
            text=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"over {options.limit} s"
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"  failed: {last}", flush=True)
        return "failed"
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(chosen: list[cases.Case], options: argparse.Namespace) -> report.Results:
    results: report.Results = {case.name: {} for case in chosen}
    begun = time.monotonic()
    for number in range(1, options.rounds + 1):
        for case in chosen:
            for entrant in case.entrants:
                if entrant not in options.entrants:
                    continue
                spent = time.monotonic() - begun
                if number > 1 and spent > 60 * options.minutes:
                    return results
                entry = results[case.name].setdefault(entrant, report.Entry())
                if entry.missing:
                    continue
                found = measure(command(case, entrant, options), options)
                print(f"{spent:4.0f} s, round {number}: {case.name}, {entrant}: {found}", flush=True)
                if isinstance(found, str):
                    entry.missing = found
                else:
                    entry.found.append(found)
    return results


def main() -> None:
    everyone = [cases.OURS, *SCRIPTS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours", type=Path, required=True, help="the example `peers`")
    parser.add_argument("--models", type=Path, required=True, help="the folder with all formats")
    parser.add_argument("--only", default="", help="a regular expression that names cases")
    parser.add_argument("--entrants", nargs="+", default=everyone, choices=everyone)
    parser.add_argument("--device", default="cpu", help="of this library")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--rounds", type=int, default=5, help="at most")
    parser.add_argument("--minutes", type=float, default=11, help="no measurement begins after")
    parser.add_argument("--limit", type=int, default=40, help="seconds for one measurement")
    parser.add_argument("--write", type=Path, help="the file with the markers, which gets the whole table")
    parser.add_argument("--marker", default="peers")
    options = parser.parse_args()
    chosen = [case for case in cases.all_cases() if re.search(options.only, case.name)]
    if not chosen:
        parser.error(f"no case is named {options.only}")
    results = compare(chosen, options)
    table = report.render(chosen, results, options)
    print(table)
    # A part of it, or by another clock, is not what the file shows.
    if options.write and not options.only and options.clock == "wall":
        document.insert(options.write, options.marker, table)
    failed = [case.name for case in chosen if cases.OURS in case.entrants
              and cases.OURS in options.entrants and not results[case.name][cases.OURS].found]
    if failed:
        sys.exit(f"this library did not measure {', '.join(failed)}")


if __name__ == "__main__":
    main()
