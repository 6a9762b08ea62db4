#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Rotary frequencies in numpy float32 after the formulas of transformers (modeling_rope_utils.py) and Qwen v1 (modeling_qwen.py), as the
table that tests/unit/test_rope.c includes.   usage: make_rope_golden.py > tests/unit/rope_tables.h"""
import math

import numpy as np

f32 = np.float32


def plain(dim, base):
    return (f32(1) / f32(base) ** (np.arange(0, dim, 2, dtype=f32) / f32(dim))).astype(f32)


def yarn(dim, base, factor, ctx, fast, slow, truncate):
    def correction(rotations):
        return dim * math.log(ctx / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = correction(fast), correction(slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(dim // 2, dtype=f32) - f32(low)) / f32(high - low), f32(0), f32(1))
    pos = f32(base) ** (np.arange(0, dim, 2, dtype=f32) / f32(dim))
    extrapolated, interpolated = f32(1) / pos, f32(1) / (f32(factor) * pos)
    keep = f32(1) - ramp
    return (interpolated * (f32(1) - keep) + extrapolated * keep).astype(f32)


def llama3(dim, base, factor, low, high, ctx):
    f = plain(dim, base)
    wave = f32(2 * math.pi) / f
    out = np.where(wave > f32(ctx / low), f / f32(factor), f)
    smooth = (f32(ctx) / wave - f32(low)) / f32(high - low)
    smoothed = (f32(1) - smooth) * out / f32(factor) + smooth * out
    medium = ~(wave < f32(ctx / high)) & ~(wave > f32(ctx / low))
    return np.where(medium, smoothed, out).astype(f32)


def ntk_alpha(length, seq_length):
    return max(2 ** math.ceil(math.log(length / seq_length, 2) + 1) - 1, 1) if length > seq_length else 1


def ntk(dim, base, seq_length, length):
    return plain(dim, base * ntk_alpha(length, seq_length) ** (dim / (dim - 2)))


def table(name, values):
    print(f"static const float {name}[] = {{")
    for i in range(0, len(values), 8):
        print("    " + " ".join(f"{float(v):.8e}f," for v in values[i:i + 8]))
    print("};")


def main():
    print("/* SPDX-License-Identifier: Apache-2.0")
    print(" * rope_tables.h - made by tests/tools/make_rope_golden.py. */")
    print("#ifndef QN_TESTS_ROPE_TABLES_H\n#define QN_TESTS_ROPE_TABLES_H\n\n/* clang-format off */")
    table("plain_128_1e6", plain(128, 1e6))
    table("yarn_128_1e6_x4", yarn(128, 1e6, 4.0, 32768, 32, 1, True))
    table("yarn_64_1e4_x2_5", yarn(64, 1e4, 2.5, 4096, 32, 1, False))
    table("yarn_32_1e4_x4", yarn(32, 1e4, 4.0, 64, 32, 1, True))
    table("linear_64_1e4_x8", plain(64, 1e4) / f32(8))
    table("llama3_64_5e5_x32", llama3(64, 5e5, 32.0, 1.0, 4.0, 8192))
    table("llama3_128_5e5_x8", llama3(128, 5e5, 8.0, 1.0, 4.0, 8192))
    table("ntk_128_1e4_2049", ntk(128, 1e4, 2048, 2049))
    table("ntk_128_1e4_5000", ntk(128, 1e4, 2048, 5000))
    table("ntk_128_1e4_30000", ntk(128, 1e4, 2048, 30000))
    lengths = [1, 2047, 2048, 2049, 4095, 4096, 4097, 8192, 8193, 16384, 30000]
    print("static const unsigned ntk_lengths[] = {" + ", ".join(map(str, lengths)) + "};")
    table("ntk_alphas", [ntk_alpha(n, 2048) for n in lengths])
    positions = [0, 1, 2046, 2047, 2048, 3000, 4095, 8191, 32766]
    print("static const unsigned logn_positions[] = {" + ", ".join(map(str, positions)) + "};")
    table("logn_scales", [f32(math.log(p + 1, 2048)) if p + 1 > 2048 else f32(1) for p in positions])
    print("/* clang-format on */\n\n#endif")


main()
