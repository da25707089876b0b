#!/usr/bin/env python3
"""Makes an XCFramework, and a zip of it, from static libraries for arm64, on any system.

    xcframework.py OUT.xcframework SLICE=LIBRARY.a...

A slice is macos, ios or ios-simulator. The framework is what `xcodebuild -create-xcframework` makes:
a folder for each slice and a property list. It has no headers: the package's C target brings them, and
Xcode refuses a build in which two bring the same. Every object is checked to be for the slice's platform.
The zip is the same, byte for byte, for the same input.
"""
import hashlib
import pathlib
import plistlib
import shutil
import struct
import sys
import zipfile

ARM64 = 0x0100000C
MACH_O_64 = 0xFEEDFACF
# Load commands, and the platforms that they mean.
BUILD_VERSION = 0x32
VERSION_MIN = {0x24: 1, 0x25: 2}
PLATFORMS = {"macos": 1, "ios": 2, "ios-simulator": 7}


def members(archive):
    """The names and contents of an archive's members, but for its tables of symbols and names."""
    if archive[:8] != b"!<arch>\n":
        raise ValueError("not an archive")
    position = 8
    while position + 60 <= len(archive):
        header = archive[position:position + 60]
        name, size = header[:16].decode().strip(), int(header[48:58])
        body = archive[position + 60:position + 60 + size]
        if name.startswith("#1/"):  # BSD: the name lies before the contents
            length = int(name[3:])
            name, body = body[:length].rstrip(b"\0").decode(), body[length:]
        if name not in ("/", "//", "/SYM64/") and not name.startswith("__.SYMDEF"):
            yield name, body
        position += 60 + size + size % 2


def versions(content):
    """The platforms that an object says it is for, with their least versions."""
    magic, machine = struct.unpack_from("<II", content)
    if magic != MACH_O_64 or machine != ARM64:
        raise ValueError("not a Mach-O object for arm64")
    count = struct.unpack_from("<I", content, 16)[0]
    position = 32
    for _ in range(count):
        command, size, first, second = struct.unpack_from("<IIII", content, position)
        if command == BUILD_VERSION:
            yield first, second
        elif command in VERSION_MIN:
            yield VERSION_MIN[command], first
        position += size


def check(name, library):
    """Checks every object of a library, and gives a line that says what it holds."""
    count, least = 0, set()
    for member, content in members(library.read_bytes()):
        try:
            found = list(versions(content))
        except (ValueError, struct.error) as error:
            raise SystemExit(f"{library}: {member}: {error}")
        if not found or any(platform != PLATFORMS[name] for platform, _ in found):
            raise SystemExit(f"{library}: {member}: not for {name}")
        least |= {version for _, version in found}
        count += 1
    if count == 0:
        raise SystemExit(f"{library}: no objects")
    least = ", ".join(f"{version >> 16}.{version >> 8 & 255}" for version in sorted(least))
    return f"{name}: {library.stat().st_size} bytes, {count} objects for {least} and later"


def add(framework, name, library):
    """Adds a slice, and gives its entry of the property list."""
    platform, _, variant = name.partition("-")
    identifier = "-".join(filter(None, [platform, "arm64", variant]))
    (framework / identifier).mkdir(parents=True)
    shutil.copyfile(library, framework / identifier / library.name)
    entry = {
        "BinaryPath": library.name,
        "LibraryIdentifier": identifier,
        "LibraryPath": library.name,
        "SupportedArchitectures": ["arm64"],
        "SupportedPlatform": platform,
    }
    if variant:
        entry["SupportedPlatformVariant"] = variant
    return entry


def archive(framework):
    """Zips the framework, with one date for all files, and gives the path."""
    path = framework.with_name(framework.name + ".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target:
        for file in sorted(file for file in framework.rglob("*") if file.is_file()):
            info = zipfile.ZipInfo(str(file.relative_to(framework.parent)), (1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            info.external_attr = 0o100644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(info, file.read_bytes())
    return path


def main(arguments):
    if len(arguments) < 2:
        raise SystemExit(__doc__)
    framework = pathlib.Path(arguments[0])
    if framework.suffix != ".xcframework":
        raise SystemExit(f"{framework}: has to end in .xcframework")
    slices = [(name, pathlib.Path(path)) for name, path in (part.split("=", 1) for part in arguments[1:])]
    for name, library in slices:
        if name not in PLATFORMS:
            raise SystemExit(f"{name}: not one of {', '.join(PLATFORMS)}")
        print(check(name, library))
    shutil.rmtree(framework, ignore_errors=True)
    entries = [add(framework, name, library) for name, library in slices]
    with open(framework / "Info.plist", "wb") as target:
        plistlib.dump({
            "AvailableLibraries": entries,
            "CFBundlePackageType": "XFWK",
            "XCFrameworkFormatVersion": "1.0",
        }, target)
    path = archive(framework)
    print(f"{path}: {path.stat().st_size} bytes, checksum {hashlib.sha256(path.read_bytes()).hexdigest()}")


main(sys.argv[1:])
