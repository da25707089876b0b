#!/usr/bin/env python3
"""Compiles selftest.metal, runs its kernels and checks results and error messages."""

import ctypes
import math
import os
import struct
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))


class Function(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("entry", ctypes.c_void_p), ("fibers", ctypes.c_int32)]


class Constant(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("index", ctypes.c_int32),
        ("address", ctypes.c_void_p),
        ("size", ctypes.c_uint64),
    ]


class Dispatch(ctypes.Structure):
    _fields_ = [
        ("buffers", ctypes.c_void_p * 31),
        ("threadgroup_offsets", ctypes.c_uint32 * 31),
        ("threadgroup_bytes", ctypes.c_uint32),
        ("threads_per_grid", ctypes.c_uint32 * 3),
        ("threadgroups_per_grid", ctypes.c_uint32 * 3),
        ("threads_per_threadgroup", ctypes.c_uint32 * 3),
    ]


class Library:
    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.functions = {
            row.name.decode(): Function(row.name, row.entry, row.fibers)  # the table is read-only
            for row in self.table("msl_functions", Function)
        }
        self.constants = {row.index: row for row in self.table("msl_constants", Constant)}

    def table(self, name, kind):
        rows = (kind * 1024).in_dll(self.library, name)
        for row in rows:
            if row.name is None:
                return
            yield row

    def set_constants(self, values):
        for index, constant in self.constants.items():
            value = values.get(index, 0).to_bytes(constant.size, "little")
            ctypes.memmove(constant.address, value, constant.size)

    def run(self, name, buffers, threads, group, allotments=()):
        """Runs `threads` threads in threadgroups of `group`; returns (divergences, message)."""
        dispatch = Dispatch()
        nothing = ctypes.create_string_buffer(4096)
        for index in range(31):
            buffer = buffers[index] if index < len(buffers) else nothing
            dispatch.buffers[index] = ctypes.addressof(buffer)
        for index in range(31):
            dispatch.threadgroup_offsets[index] = dispatch.threadgroup_bytes
            dispatch.threadgroup_bytes += allotments[index] if index < len(allotments) else 0
        groups = -(-threads // group)
        dispatch.threads_per_grid[:] = (threads, 1, 1)
        dispatch.threadgroups_per_grid[:] = (groups, 1, 1)
        dispatch.threads_per_threadgroup[:] = (group, 1, 1)
        diverged, error = ctypes.c_uint64(0), ctypes.create_string_buffer(256)
        failed = self.library.msl_run(
            ctypes.byref(self.functions[name]),
            ctypes.byref(dispatch),
            ctypes.c_uint64(0),
            ctypes.c_uint64(groups),
            ctypes.byref(diverged),
            error,
            ctypes.c_uint64(len(error)),
        )
        message = error.value.decode()
        assert (failed != 0) == (message != ""), (failed, message)
        return diverged.value, message


def floats(*values):
    return (ctypes.c_float * len(values))(*values)


def ints(*values):
    return (ctypes.c_int32 * len(values))(*values)


def halves(*values):
    return (ctypes.c_uint16 * len(values))(
        *(struct.unpack("<H", struct.pack("<e", x))[0] for x in values)
    )


def bfloats(*values):
    return (ctypes.c_uint16 * len(values))(
        *(struct.unpack("<I", struct.pack("<f", x))[0] >> 16 for x in values)
    )


def compile_metal(source, output, *more):
    command = [sys.executable, os.path.join(HERE, "compile.py"), source, output, *more]
    return subprocess.run(command, stderr=subprocess.PIPE, universal_newlines=True)


class SelfTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.source = os.path.join(HERE, "selftest.metal")
        output = os.path.join(cls.folder.name, "all.so")
        result = compile_metal(cls.source, output)
        assert result.returncode == 0, result.stderr
        cls.all = Library(output)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_reduction_with_barriers(self):
        values = [math.sin(i) for i in range(512)]
        output = floats(*[0] * 4)
        self.assertEqual(self.all.run("sum_float", [floats(*values), output], 512, 128), (0, ""))
        for group in range(4):
            self.assertAlmostEqual(output[group], sum(values[128 * group :][:128]), places=4)
        output = ints(*[0] * 4)
        self.all.run("sum_int", [ints(*range(512)), output], 512, 128)
        self.assertEqual(list(output), [sum(range(128 * g, 128 * g + 128)) for g in range(4)])

    def test_simd_operations_with_a_partial_simdgroup(self):
        values = [3 * i % 17 for i in range(33)]
        output = ints(*[0] * 198)
        self.assertEqual(self.all.run("lanes", [ints(*values), output], 33, 33), (0, ""))
        full = values[:32]
        for i, x in enumerate(full):
            expected = [
                sum(full),
                full[i + 1] if i < 31 else x,
                full[i - 2] if i >= 2 else x,
                full[i ^ 1],
                sum(full[:i]),
                max(full) - min(full),
            ]
            self.assertEqual(list(output[6 * i : 6 * i + 6]), expected, f"lane {i}")
        # The lanes next to the last thread do not exist: what is read from them is undefined.
        x = values[32]
        self.assertEqual(list(output[192:]), [x, -1, x, -1, 0, 0])

    def test_divergent_simd_operation(self):
        output = ints(*[0] * 32)
        diverged, message = self.all.run("divergent_lanes", [output], 32, 32)
        self.assertEqual((diverged, message), (1, ""))
        self.assertEqual(list(output), [4 * 41 + 28] * 32)

    def test_simdgroup_matrices(self):
        a = [(i * 7 % 11) / 4 for i in range(64)]
        b = [(i * 5 % 13) / 4 - 1 for i in range(64)]
        expected = [
            4 * sum(a[8 * r + k] * b[8 * c + k] for k in range(8)) + 2 * (r == c)
            for r in range(8)
            for c in range(8)
        ]
        for name, kind in (("multiply_float", floats), ("multiply_half", halves)):
            output = floats(*[0] * 64)
            self.assertEqual(self.all.run(name, [kind(*a), kind(*b), output], 32, 32), (0, ""))
            self.assertEqual(list(output), expected, name)

    def test_simdgroup_matrix_with_an_inactive_lane(self):
        diverged, message = self.all.run("inactive_lanes", [floats(*[0] * 64)], 32, 32)
        self.assertEqual(
            message,
            "kernel `inactive_lanes`, threadgroup (0, 0, 0):"
            " simdgroup_matrix operation with inactive lanes",
        )
        # And the next dispatch does not suffer from it.
        self.test_simdgroup_matrices()

    def test_function_constants(self):
        output = ints(*[0] * 3)
        for values, expected in (
            ({}, [1000, 1000, 1000]),
            ({3: 1}, [-1000, -1000, -1000]),
            ({3: 0, 5: 7}, [7, 8, 9]),
            ({3: 1, 5: 7}, [-7, -8, -9]),
        ):
            self.all.set_constants(values)
            self.assertEqual(self.all.run("constants", [output], 3, 3), (0, ""))
            self.assertEqual(list(output), expected)

    def test_divergent_barrier(self):
        output = ints(*[0] * 64)
        self.assertEqual(self.all.run("divergent_barrier", [output], 64, 64), (1, ""))
        self.assertEqual(list(output), [1] * 32 + [2] * 32)

    def test_early_return(self):
        output = ints(*[0] * 64)
        self.assertEqual(self.all.run("early_return", [output], 64, 64), (0, ""))
        self.assertEqual(list(output), [3] * 40 + [0] * 24)

    def test_write_past_the_end(self):
        output = ints(*[0] * 4)
        self.assertEqual(self.all.run("past_the_end", [output], 3, 3), (0, ""))
        message = self.all.run("past_the_end", [output], 4, 4)[1]
        self.assertIn("kernel `past_the_end`", message)
        self.assertIn("past the end of threadgroup memory `small`", message)

    def test_write_past_the_end_of_dynamic_memory(self):
        output = ints(*[0] * 8)
        buffers = [output]
        self.assertEqual(self.all.run("past_the_host", buffers, 4, 4, (16, 16)), (0, ""))
        self.assertEqual(list(output), [5] * 4 + [0] * 4)
        for allotments in ((16, 32), (32, 16)):
            self.assertIn(
                "past the end", self.all.run("past_the_host", buffers, 8, 8, allotments)[1]
            )

    def test_uninitialised_memory_is_nan(self):
        output = floats(*[0] * 4)
        self.all.run("uninitialised", [output], 4, 4)
        self.assertTrue(all(math.isnan(x) for x in output))

    def test_too_much_threadgroup_memory(self):
        output = ints(*[0] * 4)
        self.assertEqual(self.all.run("too_much", [output], 4, 4, (16384,))[1], "")
        for bytes_ in (16400, 32784):
            message = self.all.run("too_much", [output], 4, 4, (bytes_,))[1]
            self.assertIn("more than 32 KB of threadgroup memory", message)

    def test_too_many_threads(self):
        message = self.all.run("early_return", [ints(*[0] * 64)], 1025, 1025)[1]
        self.assertIn("more than 1024 threads", message)

    def test_wait_without_fibers(self):
        function = self.all.functions["early_return"]
        self.assertEqual(function.fibers, 1)
        self.assertEqual(self.all.functions["constants"].fibers, 0)
        function.fibers = 0
        message = self.all.run("early_return", [ints(*[0] * 64)], 64, 64)[1]
        function.fibers = 1
        self.assertIn("waits in a kernel that runs without fibers", message)

    def test_rounding(self):
        output = floats(*[0] * 6)
        self.all.run("rounding", [halves(2048, 1), bfloats(256, 1), output], 1, 1)
        self.assertEqual(list(output), [2048, 258, 1, 1.0, 5, 255])

    def test_atomics_and_a_partial_threadgroup(self):
        counter, total = ints(0), floats(0)
        self.assertEqual(self.all.run("count", [counter, total], 70, 32), (0, ""))
        self.assertEqual((counter[0], total[0]), (32 * 32 * 2 + 6 * 6, 35))

    def test_one_function(self):
        output = os.path.join(self.folder.name, "one.so")
        self.assertEqual(compile_metal(self.source, output, "--function", "sum_int").returncode, 0)
        self.assertEqual(list(Library(output).functions), ["sum_int"])

    def test_missing_function(self):
        output = os.path.join(self.folder.name, "none.so")
        result = compile_metal(self.source, output, "--function", "absent")
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("no function `absent`", result.stderr)
        self.assertFalse(os.path.exists(output))

    def test_errors_name_the_place(self):
        source = os.path.join(self.folder.name, "broken.metal")
        for text, message in (
            (
                "kernel void f(device int *x [[buffer(0)]]) {\n  x[0] = undeclared;\n}\n",
                "broken.metal:2:10",
            ),
            ("int a;\nkernel void f(int x) {}\n", "broken.metal:2: kernel parameter `int x`"),
            ("int a;\n\nkernel void f(device int *x) {\n", "broken.metal:3: `{` is never closed"),
        ):
            with open(source, "w") as file:
                file.write(text)
            result = compile_metal(source, source + ".so")
            self.assertNotEqual(result.returncode, 0)
            self.assertIn(message, result.stderr)

    def test_parallel_first_calls(self):
        folder = os.path.join(self.folder.name, "fresh")
        os.mkdir(folder)
        command = [sys.executable, os.path.join(HERE, "compile.py"), self.source]
        calls = [
            subprocess.Popen(command + [os.path.join(folder, f"{i}.so"), "--function", "count"])
            for i in range(2)
        ]
        self.assertEqual([call.wait() for call in calls], [0, 0])
        self.assertEqual(len([x for x in os.listdir(folder) if x.startswith("support-")]), 1)
        self.assertEqual(list(Library(os.path.join(folder, "1.so")).functions), ["count"])


if __name__ == "__main__":
    unittest.main()
