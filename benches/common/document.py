"""Puts what was measured into a document."""

from __future__ import annotations

from pathlib import Path


def insert(file: Path, marker: str, text: str) -> None:
    """Puts the text between the two comments of that name."""
    before, begin, rest = file.read_text(encoding="utf-8").partition(f"<!-- {marker} -->\n")
    _, end, after = rest.partition(f"<!-- /{marker} -->")
    if not begin or not end:
        raise SystemExit(f"{file} has no markers {marker}")
    file.write_text(f"{before}{begin}{text}\n{end}{after}", encoding="utf-8")
