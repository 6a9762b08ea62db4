#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/weights.safetensors: one small matrix in each stored form of several tensors, and its values.

Random codes, zeros and scales are packed as the public checkpoints pack them; FORM.expect holds w = scale * (q - zero)
and so on, written out with numpy in float32 from the unpacked numbers.   usage: make_weight_golden.py OUT
Needs numpy and safetensors."""
import sys

import numpy as np
from safetensors.numpy import save_file

rng = np.random.default_rng(7)
f32 = np.float32
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def pack(values, bits, axis, order=None):
    """Integers to 32-bit words along an axis, the first in the lowest bits (order[j] goes to place j)."""
    per = 32 // bits
    v = np.moveaxis(values, axis, -1).astype(np.uint64)
    v = v.reshape(*v.shape[:-1], -1, per)
    v = v[..., list(order)] if order else v
    words = (v << (np.arange(per, dtype=np.uint64) * np.uint64(bits))).sum(-1).astype(np.uint32)
    return np.ascontiguousarray(np.moveaxis(words, -1, axis)).view(np.int32)


def grouped(rows, cols, group, bits, g_idx):
    """Random codes [cols, rows], zeros and scales [groups, rows], and the values [rows, cols]."""
    q = rng.integers(0, 2**bits, (cols, rows))
    z = rng.integers(1, 2**bits, (cols // group, rows))
    s = rng.uniform(0.01, 0.1, (cols // group, rows)).astype(np.float16)
    return q, z, s, (s.astype(f32)[g_idx] * (q - z[g_idx]).astype(f32)).T


def main():
    out = {}
    rows, cols, group = 24, 32, 8
    plain = np.arange(cols) // group
    shuffled = rng.permutation(plain)
    for name, bits, g_idx, less in (("gptq4", 4, plain, 1), ("gptq4_act", 4, shuffled, 0), ("gptq8", 8, plain, 1)):
        q, z, s, w = grouped(rows, cols, group, bits, g_idx)
        out |= {f"{name}.qweight": pack(q, bits, 0), f"{name}.qzeros": pack(z - less, bits, 1), f"{name}.scales": s,
                f"{name}.g_idx": g_idx.astype(np.int32), f"{name}.expect": w}
    q, z, s, w = grouped(rows, cols, group, 4, plain)
    out |= {"awq4.qweight": pack(q, 4, 1, AWQ_ORDER), "awq4.qzeros": pack(z, 4, 1, AWQ_ORDER), "awq4.scales": s, "awq4.expect": w}

    # NF4: groups of 64 that do not end where rows end, and a last group cut short
    rows, cols = 5, 72
    n = rows * cols
    code = np.sort(rng.uniform(-1, 1, 16)).astype(f32)
    q = rng.integers(0, 16, n)
    n_absmax = -(-n // 64)
    nested_code, nested_scale = np.sort(rng.uniform(-1, 1, 256)).astype(f32), rng.uniform(0.1, 1, -(-n_absmax // 4)).astype(f32)
    absmax_q, offset = rng.integers(0, 256, n_absmax).astype(np.uint8), f32(0.625)
    double = nested_code[absmax_q] * np.repeat(nested_scale, 4)[:n_absmax] + offset
    plain_absmax = rng.uniform(0.1, 2, n_absmax).astype(f32)
    value = lambda absmax: (code[q] * np.repeat(absmax, 64)[:n]).reshape(rows, cols)
    out |= {"nf4.weight": ((q[0::2] << 4) | q[1::2]).astype(np.uint8)[:, None], "nf4.code": code, "nf4.absmax": plain_absmax,
            "nf4.expect": value(plain_absmax), "nf4.absmax_q": absmax_q, "nf4.nested_code": nested_code,
            "nf4.nested_absmax": nested_scale, "nf4.nested_offset": np.array([offset]), "nf4.double_expect": value(double)}

    # FP8: 10 x 20 in blocks of 4 rows by 8 columns
    rows, cols, br, bc = 10, 20, 4, 8
    b = rng.integers(0, 256, (rows, cols))
    b[(b & 127) == 127] = 0x42
    e, m = b >> 3 & 15, b & 7
    v = np.where(e == 0, m * 2.0**-9, (1 + m / 8) * 2.0 ** (e - 7)) * np.where(b & 128, -1, 1)
    s = rng.uniform(0.001, 0.1, (-(-rows // br), -(-cols // bc))).astype(f32)
    out |= {"fp8.weight": b.astype(np.uint8), "fp8.scale": s,
            "fp8.expect": v.astype(f32) * s.repeat(br, 0).repeat(bc, 1)[:rows, :cols]}
    save_file({k: np.ascontiguousarray(x) for k, x in out.items()}, sys.argv[1])


main()
