#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Copies a model folder with goldens, smaller: golden.safetensors without its logits (the last row's are in golden.json), and a
chat template of ours in the place of a published one.   usage: copy_model_fixture.py IN OUT"""
import json
import os
import shutil
import struct
import sys

OURS = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def without_logits(data):
    n = struct.unpack("<Q", data[:8])[0]
    head, body, out, kept = json.loads(data[8:8 + n]), data[8 + n:], b"", {}
    for name, t in head.items():
        if name in ("__metadata__", "logits"):
            continue
        begin, end = t["data_offsets"]
        kept[name] = {**t, "data_offsets": [len(out), len(out) + end - begin]}
        out += body[begin:end]
    text = json.dumps(kept, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + out


def main():
    source, target = sys.argv[1:3]
    os.makedirs(target, exist_ok=True)
    for name in sorted(os.listdir(source)):
        path = os.path.join(target, name)
        with open(os.path.join(source, name), "rb") as f:
            data = f.read()
        if name == "golden.safetensors":
            data = without_logits(data)
        if name == "tokenizer_config.json":
            config = json.loads(data)
            if "chat_template" in config:
                config["chat_template"] = OURS
            data = (json.dumps(config, indent=1, ensure_ascii=False) + "\n").encode()
        with open(path, "wb") as f:
            f.write(data)


if __name__ == "__main__":
    main()
