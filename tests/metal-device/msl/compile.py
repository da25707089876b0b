#!/usr/bin/env python3
"""Compiles Metal source to a shared library which runs its kernels on the CPU.

usage: compile.py SOURCE.metal OUTPUT.so [--function HOST_NAME]

With --function, only that entry point is compiled. What all libraries have in common, the runtime
and the precompiled headers, is made at the first call and kept in a folder beside the output, where
the library looks for it. Several processes may do this at once.

environment:
  METAL_DEVICE_CLANG  the compiler (clang++-19)
  METAL_DEVICE_OPT    the optimisation level (1)
  METAL_DEVICE_KEEP   if 1, the intermediate files are kept, and their folder is printed
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True  # the sources' folder stays as it is

from tokens import TranslateError
from translate import translate

HERE = os.path.dirname(os.path.abspath(__file__))
SHIM = os.path.join(HERE, "shim")
INCLUDE = os.path.join(HERE, "include")

FLAGS = [
    "-std=c++17",
    "-fPIC",
    "-w",
    "-fno-exceptions",
    "-fno-rtti",
    # Strictness: nothing is computed more precisely than written. Only bfloat is, as in Metal: in
    # float, and rounded by the assignment.
    "-ffp-contract=off",
    *("-Xclang", "-ffloat16-excess-precision=none"),
    *("-Xclang", "-fbfloat16-excess-precision=standard"),
    # The return address of a wait tells where in the kernel it is.
    "-fno-optimize-sibling-calls",
    # And the addresses of waits shall follow their order in the source: the runtime resolves by it.
    *("-mllvm", "-disable-block-placement"),
    # A conversion of what an integer cannot hold saturates on GPUs, and is undefined in C++.
    "-fno-strict-float-cast-overflow",
    # Memory of one type is written as another one, as with Metal's compiler.
    "-fno-strict-aliasing",
]
if platform.machine() == "x86_64":
    FLAGS.append("-march=x86-64-v3")  # has instructions that convert between half and float
LIBRARY_FLAGS = [
    *FLAGS,
    # A library exports its two tables only.
    "-fvisibility=hidden",
    # A division by zero, which Metal leaves undefined, is a fault of the kernel and not a signal.
    "-fsanitize=integer-divide-by-zero",
    "-fno-sanitize-recover=integer-divide-by-zero",
    "-fsanitize-minimal-runtime",
    "-fno-sanitize-link-runtime",
]


class CompileError(Exception):
    """A message for the user."""


def clang(*arguments):
    command = [os.environ.get("METAL_DEVICE_CLANG", "clang++-19"), *arguments]
    try:
        result = subprocess.run(command, stderr=subprocess.PIPE, universal_newlines=True)
    except OSError as error:
        raise CompileError(f"{command[0]}: {error.strerror}") from None
    if result.returncode != 0:
        raise CompileError(result.stderr.strip() or f"{command[0]} failed")


def version():
    """The compiler's version: what another one made is of no use to it."""
    command = [os.environ.get("METAL_DEVICE_CLANG", "clang++-19"), "--version"]
    try:
        return subprocess.run(command, stdout=subprocess.PIPE).stdout
    except OSError as error:
        raise CompileError(f"{command[0]}: {error.strerror}") from None


def optimisation():
    return "-O" + os.environ.get("METAL_DEVICE_OPT", "1")


def support_folder(beside):
    """The folder with the runtime and the precompiled headers for these sources and flags.

    Its name has a hash of all that goes into them, its own place included: a precompiled header
    refers to the files which it was made of. It has its own copy of them for the same reason.
    """
    names = sorted(os.listdir(SHIM))
    digest = hashlib.sha256(
        repr((beside, LIBRARY_FLAGS, optimisation(), version())).encode()
    )
    for name in names:
        with open(os.path.join(SHIM, name), "rb") as file:
            digest.update(name.encode() + b"\0" + file.read())
    folder = os.path.join(beside, "support-" + digest.hexdigest()[:16])
    if os.path.isdir(folder):
        return folder
    temporary = tempfile.mkdtemp(prefix="support-", dir=beside)
    try:
        for name in names:
            shutil.copy(os.path.join(SHIM, name), temporary)
        runtime = os.path.join(temporary, "runtime.cpp")
        clang(*FLAGS, "-O2", "-shared", runtime, "-o", os.path.join(temporary, "libmsl_runtime.so"))
        os.rename(temporary, folder)
    except OSError:
        # Another process was faster.
        if not os.path.isdir(folder):
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def precompiled_header(support):
    """The headers in compiled form, made where they stay, because their paths are in it."""
    header = os.path.join(support, "shim.pch")
    if not os.path.exists(header):
        with tempfile.TemporaryDirectory(prefix="pch-", dir=support) as folder:
            temporary = os.path.join(folder, "shim.pch")
            # The times of files are not compared: those of a cache from an archive may be others.
            clang(
                *LIBRARY_FLAGS,
                *("-Xclang", "-fno-pch-timestamp"),
                optimisation(),
                *("-x", "c++-header", os.path.join(support, "shim.h"), "-o", temporary),
            )
            os.replace(temporary, header)
    return header


def compile_source(source, output, function, folder):
    """Preprocesses, translates and compiles, with the intermediate files in `folder`."""
    beside = os.path.dirname(os.path.abspath(output))
    os.makedirs(beside, exist_ok=True)
    support = support_folder(beside)
    preprocessed = os.path.join(folder, "preprocessed.cpp")
    translated = os.path.join(folder, "translated.cpp")
    clang(
        *("-E", "-x", "c++", "-std=c++17", "-w"),
        *("-nostdinc", "-undef", "-I", INCLUDE),
        *(source, "-o", preprocessed),
    )
    with open(preprocessed) as file:
        text = translate(file.read(), function)
    with open(translated, "w") as file:
        file.write(text)
    handle, temporary = tempfile.mkstemp(suffix=".tmp", dir=beside)
    os.close(handle)
    try:
        clang(
            *LIBRARY_FLAGS,
            optimisation(),
            *("-include-pch", precompiled_header(support)),
            *("-I", support),
            *("-shared", translated, "-o", temporary),
            *("-nostdlib++", "-L" + support, "-lmsl_runtime"),
            "-Wl,-rpath,$ORIGIN/" + os.path.basename(support),
        )
        os.chmod(temporary, 0o755)
        os.replace(temporary, output)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def main(arguments):
    function = None
    if len(arguments) == 4 and arguments[2] == "--function":
        function = arguments[3]
    elif len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    keep = os.environ.get("METAL_DEVICE_KEEP") == "1"
    folder = tempfile.mkdtemp(prefix="metal-device-")
    try:
        compile_source(arguments[0], arguments[1], function, folder)
    except (CompileError, TranslateError, OSError) as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return 1
    finally:
        if keep:
            print(f"intermediate files: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
