#!/usr/bin/env python3
"""Type-checks every Swift sample of the package's documents and comments against the built module.

    swift build && bindings/swift/check-samples.py [BUILD_FOLDER]

A sample is what is fenced as ```swift: in the articles, in the read-mes, and in `///` comments. It becomes the body
of a function whose parameters are the names below, so that a sample need not load a model to use one. One that
imports something is a program: it has no parameters, and sees what it imports. One that only declares (its lines
without indentation begin as declarations do) is a file of its own. One that begins with `// swift-tools-version` is
a manifest. One that imports what only Apple's systems have is parsed, and type-checked there. Errors name the line of
the document.

BUILD_FOLDER is SwiftPM's for a configuration, .build/debug where it is left out. SWIFTC is the command to run.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
REPOSITORY = PACKAGE.parent.parent
DOCUMENTS = [
    REPOSITORY / "README.md",
    REPOSITORY / "MIGRATION.md",
    PACKAGE / "README.md",
    *sorted(PACKAGE.glob("Sources/MetalCandle/**/*.md")),
    *sorted(PACKAGE.glob("Sources/MetalCandle/**/*.swift")),
]

# What samples may use without making it: parameters, and what they may change.
CONTEXT = {
    "model": "Model",
    "draft": "Model",
    "generator": "Generator",
    "session": "ChatSession",
    "adapter": "Adapter",
    "trainer": "Trainer",
    "train": "Dataset",
    "validation": "Dataset",
    "batch": "BatchGenerator",
    "prompts": "[String]",
    "answer": "String",
    "schema": "JSON",
    "url": "URL",
    "folder": "URL",
}
VARIABLES = "var calls: [ToolCall] = []"

APPLE_ONLY = re.compile(r"\s*import (os|OSLog|SwiftUI)\b")

DECLARATION = re.compile(
    r"(import|@|//|/\*|\}|(public |private |final |nonisolated )*"
    r"(struct|class|actor|enum|extension|protocol|func) )"
)


def samples(document):
    """The samples of a document, each with the number of its first line."""
    comment = document.suffix == ".swift"
    found, block = [], None
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
        if comment:
            match = re.match(r"\s*/// ?(.*)", line)
            line = match[1] if match else ""
        if block is not None and line.strip() == "```":
            found.append(block)
            block = None
        elif block is not None:
            block[1].append(line)
        elif re.fullmatch(r"\s*```swift", line):
            block = (number + 1, [])
    if block is not None:
        sys.exit(f"{document}: the sample at line {block[0]} has no end")
    return found


def located(document, number, lines):
    """Lines that the compiler takes for those of the document."""
    return [f'#sourceLocation(file: "{document}", line: {number})', *lines, "#sourceLocation()"]


def source(name, document, number, lines):
    """The sample as a file of Swift."""
    # Imports keep their lines, which stay empty, so that the numbers remain right.
    imports = {line.strip() for line in lines if re.match(r"\s*import ", line)}
    body = ["" if re.match(r"\s*import ", line) else line for line in lines]
    # Readers copy a sample with its imports, which then have to be all that it takes.
    head = sorted((imports or {"import Foundation"}) | {"import MetalCandle"})
    if all(DECLARATION.match(line) for line in lines if line and not line[0].isspace()):
        return [*head, *located(document, number, body)]
    parameters = "" if imports else ", ".join(f"{name}: {kind}" for name, kind in CONTEXT.items())
    opening = [f"func {name}({parameters}) async throws {{", VARIABLES, "do {"]
    return [*head, *opening, *located(document, number, body), "}", "}"]


def main():
    build = Path(sys.argv[1] if len(sys.argv) > 1 else REPOSITORY / ".build/debug").resolve()
    if not (build / "Modules/MetalCandle.swiftmodule").exists():
        sys.exit(f"{build} has no module: run `swift build` first")
    swiftc = shlex.split(os.environ.get("SWIFTC", "swiftc"))
    target = json.loads(subprocess.run([*swiftc, "-print-target-info"], check=True, capture_output=True).stdout)
    manifests = Path(target["paths"]["runtimeResourcePath"]) / "pm/ManifestAPI"

    # Within the build folder, which a compiler in a container sees too.
    folder = build / "samples"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    files, parsed, commands = [], [], []
    for document in DOCUMENTS:
        if not document.exists():
            continue
        for number, lines in samples(document):
            name = "sample_" + re.sub(r"\W", "_", document.stem) + f"_{number}"
            file = folder / f"{name}.swift"
            if lines and lines[0].startswith("// swift-tools-version"):
                file.write_text("\n".join([*located(document, number, lines), ""]), encoding="utf-8")
                commands.append(["-I", manifests, "-package-description-version", "6.0", file])
            else:
                file.write_text("\n".join([*source(name, document, number, lines), ""]), encoding="utf-8")
                apple_only = sys.platform != "darwin" and any(map(APPLE_ONLY.match, lines))
                (parsed if apple_only else files).append(file)
    if not files:
        sys.exit("no samples")
    manifest_count = len(commands)
    modules = ["-I", build / "Modules", "-I", PACKAGE / "Sources/CMetalCandle/include"]
    commands.append([*modules, "-swift-version", "6", "-parse-as-library", "-module-name", "Samples", *files])

    commands = [["-typecheck", "-suppress-warnings", *arguments] for arguments in commands]
    if parsed:
        commands.append(["-frontend", "-parse", *parsed])
    failed = [subprocess.run([*swiftc, *map(str, command)], check=False).returncode for command in commands]
    if any(failed):
        sys.exit("samples do not compile")
    print(f"{len(files)} samples and {manifest_count} manifests compile, {len(parsed)} were only parsed")


if __name__ == "__main__":
    main()
