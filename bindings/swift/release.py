#!/usr/bin/env python3
"""Writes into Package.swift where the XCFramework of a release lies, and its checksum.

    release.py MetalCandleFFI.xcframework.zip URL

That has to be in the commit that the release's tag names, and nowhere else: between releases Macs build
the library, since that of a release is older than the sources around it.
"""
import hashlib
import pathlib
import sys

NONE = "let release: (url: String, checksum: String)? = nil\n"
SOME = """let release: (url: String, checksum: String)? = (
    url: "{url}",
    checksum: "{checksum}"
)
"""


def main(arguments):
    if len(arguments) != 2 or not arguments[1].startswith("https://") or '"' in arguments[1]:
        raise SystemExit(__doc__)
    manifest = pathlib.Path(__file__).resolve().parents[2] / "Package.swift"
    before = manifest.read_text()
    if before.count(NONE) != 1:
        raise SystemExit(f"{manifest}: does not have the line {NONE}")
    checksum = hashlib.sha256(pathlib.Path(arguments[0]).read_bytes()).hexdigest()
    manifest.write_text(before.replace(NONE, SOME.format(url=arguments[1], checksum=checksum)))


main(sys.argv[1:])
