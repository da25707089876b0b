"""Draws what the bench `scaling` printed, and writes it into BENCHMARKS.md; `run.sh` starts it."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import document
import estimate
import svg

ROOT = Path(__file__).parents[2]


def exponent(points: svg.Points) -> float:
    """The slope of the line through the logarithms, by least squares."""
    xs = [math.log(x) for x, _ in points]
    ys = [math.log(y) for _, y in points]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    above = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    return above / sum((x - x_mean) ** 2 for x in xs)


def draw(name: str, title: str, labels: tuple[str, str], lines: dict[str, svg.Points]) -> list[str]:
    """Draws a chart, and gives its lines in BENCHMARKS.md."""
    file = f"benches/plots/{name}.svg"
    (ROOT / "benches" / "plots").mkdir(exist_ok=True)
    (ROOT / file).write_text(svg.chart(title, *labels, lines), encoding="utf-8")
    fits = ", ".join(
        f"{line} as its power of {exponent(points):.2f} over all, "
        f"{exponent(points[-3:]):.2f} over the last three points"
        for line, points in lines.items()
    )
    return [f"![{title}]({file})", "", f"{title}: {fits}.", ""]


def main() -> None:
    found = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sizes = found["sizes"]
    largest = max(sizes, key=lambda size: size["parameters"])

    def by_size(key: str, unit: float) -> svg.Points:
        return [(round(size["parameters"] / 1e6, 1), size[key] / unit) for size in sizes]

    decode = [(context, 1e3 * seconds) for context, seconds in found["decode"]]
    train = [(length, 1e3 * seconds) for length, seconds in found["train"]]
    text = [
        *draw("decode", "A token by its context", ("tokens before it", "ms"), {"time": decode}),
        *draw("train", "A LoRA step by the length of its row", ("tokens", "ms"), {"time": train}),
        *draw(
            "memory",
            "Peak memory by the size of the model",
            ("million parameters", "MB"),
            {"generating": by_size("generating", 1e6), "training": by_size("training", 1e6)},
        ),
        estimate.table(estimate.Shape(**largest["shape"]), largest, found["prompt_tokens"]),
    ]
    document.insert(ROOT / "BENCHMARKS.md", "scaling", "\n".join(text))


if __name__ == "__main__":
    main()
