#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Copies a GGUF file, its chat template replaced by a short one of ours.   usage: copy_gguf_fixture.py IN OUT

Published chat templates are not kept in this repository; all else, the tensors included, stays as it is."""
import struct
import sys

OURS = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}").encode()
SIZE = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def main():
    data = open(sys.argv[1], "rb").read()
    at = 24
    u32 = lambda p: struct.unpack_from("<I", data, p)[0]
    u64 = lambda p: struct.unpack_from("<Q", data, p)[0]
    n_tensors, n_values = u64(8), u64(16)
    align, cut = 32, None
    for _ in range(n_values):
        key, at = data[at + 8:at + 8 + u64(at)], at + 8 + u64(at)
        kind, at = u32(at), at + 4
        start = at
        if kind == 8:
            at += 8 + u64(at)
        elif kind == 9:
            item, n, at = u32(at), u64(at + 4), at + 12
            for _ in range(n if item == 8 else 0):
                at += 8 + u64(at)
            at += 0 if item == 8 else n * SIZE[item]
        else:
            align = u32(at) if key == b"general.alignment" else align
            at += SIZE[kind]
        if key == b"tokenizer.chat_template":
            cut = start, at
    for _ in range(n_tensors):
        at += 8 + u64(at)
        at += 4 + 8 * u32(at) + 12
    head = data[:cut[0]] + struct.pack("<Q", len(OURS)) + OURS + data[cut[1]:at]
    body = data[at + -at % align:]
    open(sys.argv[2], "wb").write(head + bytes(-len(head) % align) + body)


main()
