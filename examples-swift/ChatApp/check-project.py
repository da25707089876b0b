#!/usr/bin/env python3
"""Checks ChatApp.xcodeproj as far as that goes without Xcode.

The project is a property list in the old format of NeXT. Here it is parsed, and held against what it names:
each object that is referred to exists and is of the kind that belongs there, none is left over, files and
folders are where they are said to be, and the package offers the product that the app links.
"""

import plistlib
import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PROJECT = FOLDER / "ChatApp.xcodeproj/project.pbxproj"
TOKEN = re.compile(
    r'\s+|//[^\n]*|/\*.*?\*/|(?P<mark>[{}()=;,])|"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<word>[\w.$/:<>+-]+)', re.S
)
# What kind of object a key refers to.
KINDS = {
    "baseConfigurationReference": {"PBXFileReference"},
    "buildConfigurationList": {"XCConfigurationList"},
    "buildConfigurations": {"XCBuildConfiguration"},
    "buildPhases": {"PBXSourcesBuildPhase", "PBXFrameworksBuildPhase", "PBXResourcesBuildPhase"},
    "children": {"PBXFileReference", "PBXFileSystemSynchronizedRootGroup", "PBXGroup"},
    "fileSystemSynchronizedGroups": {"PBXFileSystemSynchronizedRootGroup"},
    "files": {"PBXBuildFile"},
    "mainGroup": {"PBXGroup"},
    "package": {"XCLocalSwiftPackageReference"},
    "packageProductDependencies": {"XCSwiftPackageProductDependency"},
    "packageReferences": {"XCLocalSwiftPackageReference"},
    "productRef": {"XCSwiftPackageProductDependency"},
    "productRefGroup": {"PBXGroup"},
    "productReference": {"PBXFileReference"},
    "rootObject": {"PBXProject"},
    "targets": {"PBXNativeTarget"},
}


def fail(message):
    sys.exit(f"{PROJECT.name}: {message}")


def tokens(text):
    position = 0
    while position < len(text):
        match = TOKEN.match(text, position)
        if not match:
            fail(f"line {text.count(chr(10), 0, position) + 1}: not a property list")
        position = match.end()
        if match.lastgroup:
            yield match.lastgroup, match[match.lastgroup]
    while True:
        yield "end", "the end"


def value(token, stream):
    kind, text = token
    if kind in ("quoted", "word"):
        return text
    if text == "(":
        items = []
        while (token := next(stream)) != ("mark", ")"):
            items.append(value(token, stream))
            expect(next(stream), ",")
        return items
    expect(token, "{")
    entries = {}
    while (token := next(stream)) != ("mark", "}"):
        key = value(token, stream)
        if key in entries:
            fail(f"{key} is there twice")
        expect(next(stream), "=")
        entries[key] = value(next(stream), stream)
        expect(next(stream), ";")
    return entries


def expect(token, mark):
    if token != ("mark", mark):
        fail(f"{token[1]} where {mark} belongs")


def references(entries):
    for key, names in entries.items():
        if key in KINDS:
            for name in names if isinstance(names, list) else [names]:
                yield key, name


def main():
    stream = tokens(PROJECT.read_text())
    project = value(next(stream), stream)
    if next(stream)[0] != "end":
        fail("something comes after the end")
    objects = project["objects"]

    found, left = set(), [project]
    while left:
        for key, name in references(left.pop()):
            if name not in objects:
                fail(f"{key} refers to {name}, which does not exist")
            if objects[name]["isa"] not in KINDS[key]:
                fail(f"{key} refers to {name}, which is a {objects[name]['isa']}")
            if name not in found:
                found.add(name)
                left.append(objects[name])
    if unused := objects.keys() - found:
        fail(f"nothing refers to {', '.join(sorted(unused))}")

    package = None
    for entries in objects.values():
        if "path" in entries and entries["sourceTree"] == "<group>" and not (FOLDER / entries["path"]).exists():
            fail(f"{entries['path']} does not exist")
        if entries["isa"] == "PBXFileSystemSynchronizedRootGroup":
            if not any((FOLDER / entries["path"]).glob("*.swift")):
                fail(f"{entries['path']} has no Swift files")
        if entries["isa"] == "XCLocalSwiftPackageReference":
            package = (FOLDER / entries["relativePath"] / "Package.swift").read_text()
    for entries in objects.values():
        if entries["isa"] == "XCSwiftPackageProductDependency":
            if f'.library(name: "{entries["productName"]}"' not in package:
                fail(f"the package has no product {entries['productName']}")

    settings = dict(
        line.split(" = ", 1) for line in (FOLDER / "ChatApp.xcconfig").read_text().splitlines() if " = " in line)
    for key, name in settings.items():
        if key.startswith("CODE_SIGN_ENTITLEMENTS"):
            if not all(plistlib.loads((FOLDER / name).read_bytes()).values()):
                fail(f"{name} denies something")
    for key, platform in (("MACOSX", "macOS"), ("IPHONEOS", "iOS")):
        version = settings[f"{key}_DEPLOYMENT_TARGET"].split(".")[0]
        if f".{platform}(.v{version})" not in package:
            fail(f"the package is for another {platform} than {version}")
    print(f"{PROJECT.name}: {len(objects)} objects, all of them found")


main()
