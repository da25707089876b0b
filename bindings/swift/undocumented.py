#!/usr/bin/env python3
"""Lists the public symbols of symbol graphs that have no comment, and fails where there are some.

    undocumented.py GRAPH.symbols.json...

Symbols that are not in the source are left out, which the compiler makes for a conformance, and so are those
that take their comment from the requirement that they meet, and extensions, whose members count.
"""
import json
import pathlib
import sys


def inherited(graph):
    """The symbols that have their documentation from elsewhere."""
    return {relation["source"] for relation in graph["relationships"] if "sourceOrigin" in relation}


def main(arguments):
    seen, lacking = 0, []
    for argument in arguments:
        graph = json.loads(pathlib.Path(argument).read_text())
        excepted = inherited(graph)
        for symbol in graph["symbols"]:
            identifier = symbol["identifier"]["precise"]
            if symbol["kind"]["identifier"] == "swift.extension" or "location" not in symbol:
                continue
            if "::SYNTHESIZED::" in identifier or identifier in excepted:
                continue
            seen += 1
            lines = symbol.get("docComment", {}).get("lines", [])
            if not any(line["text"].strip() for line in lines):
                place = symbol["location"]
                line = place["position"]["line"] + 1
                lacking.append(f"{place['uri'].removeprefix('file://')}:{line}: {'.'.join(symbol['pathComponents'])}")
    if seen == 0:
        raise SystemExit("the symbol graphs have no public symbol")
    if lacking:
        raise SystemExit("these have no comment:\n" + "\n".join(sorted(lacking)))
    print(f"{seen} public symbols have a comment")


main(sys.argv[1:])
