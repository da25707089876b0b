"""A chart of lines with two logarithmic axes."""

from __future__ import annotations

import math

Points = list[tuple[float, float]]
WIDTH, HEIGHT = 560, 340
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 40, 50
COLORS = ["#1f77b4", "#d62728"]


def decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, from below `low` to above `high`."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    first = max(tick for tick in ticks if tick <= low * 1.0001)
    last = min(tick for tick in ticks if tick >= high * 0.9999)
    return [tick for tick in ticks if first <= tick <= last]


def text(x: float, y: float, content: str, anchor: str = "middle", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{content}</text>'


def chart(title: str, x_label: str, y_label: str, lines: dict[str, Points]) -> str:
    """The chart as an SVG document."""
    xs = sorted({x for points in lines.values() for x, _ in points})
    ys = [y for points in lines.values() for _, y in points]
    ticks = decades(min(ys), max(ys))

    def place(value: float, low: float, high: float, start: float, end: float) -> float:
        return start + (end - start) * math.log(value / low) / math.log(high / low)

    def x_of(value: float) -> float:
        return place(value, xs[0], xs[-1], LEFT, WIDTH - RIGHT)

    def y_of(value: float) -> float:
        return place(value, ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        text(WIDTH / 2, 22, title, size=14),
        text(WIDTH / 2, HEIGHT - 10, x_label),
        text(LEFT - 60, TOP - 12, y_label, "start"),
    ]
    for tick in ticks:
        y = y_of(tick)
        end = WIDTH - RIGHT
        parts.append(f'<path d="M{LEFT} {y:.1f}H{end}" stroke="#ddd"/>')
        parts.append(text(LEFT - 6, y + 4, f"{tick:g}", "end"))
    parts += [text(x_of(x), HEIGHT - BOTTOM + 18, f"{x:g}") for x in xs]
    for number, (name, points) in enumerate(lines.items()):
        color = COLORS[number % len(COLORS)]
        path = "L".join(f"{x_of(x):.1f} {y_of(y):.1f}" for x, y in points)
        parts.append(f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3" fill="{color}"/>' for x, y in points
        ]
        y = TOP + 14 + 18 * number
        parts.append(f'<circle cx="{LEFT + 14}" cy="{y - 4}" r="4" fill="{color}"/>')
        parts.append(text(LEFT + 24, y, name, "start"))
    return "\n".join([*parts, "</svg>\n"])
