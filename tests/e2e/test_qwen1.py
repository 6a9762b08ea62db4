#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Qwen v1 against a golden of Qwen2.   usage: test_qwen1.py QUERN

There is no golden of Qwen v1 (its code is not in transformers). But a Qwen2 model whose k and v heads are written out once for every query
head is a Qwen v1 model: c_attn is q, k, v stacked, w2 the gate, w1 up. So the golden's logits must come out, in exact mode within its
own tolerance. Also: log-n attention and dynamic NTK change nothing within seq_length, and do beyond it."""
import json
import os
import struct
import subprocess
import sys
import tempfile

QUERN = sys.argv[1]
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SOURCE = os.path.join(ROOT, "golden", "models", "qwen2-tied-f16")


def read_safetensors(path):
    with open(path, "rb") as f:
        data = f.read()
    n = struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8:8 + n])
    head.pop("__metadata__", None)
    body = data[8 + n:]
    return {k: (t["shape"], body[t["data_offsets"][0]:t["data_offsets"][1]]) for k, t in head.items()}


def write_safetensors(path, tensors):
    head, body = {}, b""
    for name, (shape, data) in tensors.items():
        head[name] = {"dtype": "F16", "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + body)


def repeat_heads(tensor, n_kv, n_heads):
    """Rows of each k or v head once for every query head that reads it."""
    shape, data = tensor
    size = len(data) // n_kv
    heads = [data[i * size:(i + 1) * size] for i in range(n_kv)]
    return b"".join(heads[i * n_kv // n_heads] for i in range(n_heads))


def convert(folder, **extra):
    with open(os.path.join(SOURCE, "config.json")) as f:
        c = json.load(f)
    t = read_safetensors(os.path.join(SOURCE, "model.safetensors"))
    h, heads, kv, ffn = (c[k] for k in ("hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size"))
    out = {"transformer.wte.weight": t["model.embed_tokens.weight"], "lm_head.weight": t["model.embed_tokens.weight"],
           "transformer.ln_f.weight": t["model.norm.weight"]}
    for i in range(c["num_hidden_layers"]):
        old, new = f"model.layers.{i}.", f"transformer.h.{i}."
        for kind, shape in (("weight", [3 * h, h]), ("bias", [3 * h])):
            q, k, v = (t[f"{old}self_attn.{x}_proj.{kind}"] for x in "qkv")
            out[f"{new}attn.c_attn.{kind}"] = (shape, q[1] + repeat_heads(k, kv, heads) + repeat_heads(v, kv, heads))
        out[new + "attn.c_proj.weight"] = t[old + "self_attn.o_proj.weight"]
        out[new + "ln_1.weight"] = t[old + "input_layernorm.weight"]
        out[new + "ln_2.weight"] = t[old + "post_attention_layernorm.weight"]
        out[new + "mlp.w1.weight"] = t[old + "mlp.up_proj.weight"]
        out[new + "mlp.w2.weight"] = t[old + "mlp.gate_proj.weight"]
        out[new + "mlp.c_proj.weight"] = t[old + "mlp.down_proj.weight"]
    os.makedirs(folder)
    write_safetensors(os.path.join(folder, "model.safetensors"), out)
    config = {"model_type": "qwen", "architectures": ["QWenLMHeadModel"], "hidden_size": h,
              "num_hidden_layers": c["num_hidden_layers"], "num_attention_heads": heads, "kv_channels": h // heads,
              "intermediate_size": 2 * ffn, "layer_norm_epsilon": c["rms_norm_eps"], "rotary_emb_base": c["rope_theta"],
              "rotary_pct": 1.0, "seq_length": 2048, "use_dynamic_ntk": True, "use_logn_attn": True, "no_bias": True,
              "tie_word_embeddings": False, "vocab_size": c["vocab_size"], **extra}
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        with open(os.path.join(SOURCE, name), "rb") as f, open(os.path.join(folder, name), "wb") as g:
            g.write(f.read())


def last_logits(folder, ids, scratch):
    out = os.path.join(scratch, "logits.npy")
    subprocess.run([QUERN, "eval", "-m", folder, "--exact", "--tokens", ",".join(map(str, ids)), "--logits", out], check=True,
                   stdout=subprocess.DEVNULL)
    with open(out, "rb") as f:
        data = f.read()
    body = data[10 + struct.unpack("<H", data[8:10])[0]:]
    row = len(body) // len(ids)
    return struct.unpack(f"<{row // 4}f", body[-row:])


def main():
    passed = failed = 0

    def check(what, good):
        nonlocal passed, failed
        passed, failed = passed + good, failed + (not good)
        if not good:
            print("FAILED:", what)

    with open(os.path.join(SOURCE, "golden.json")) as f:
        golden = json.load(f)
    with tempfile.TemporaryDirectory() as scratch:
        plain, short = os.path.join(scratch, "v1"), os.path.join(scratch, "short")
        convert(plain)
        convert(short, seq_length=16)
        for p in golden["prompts"]:
            got = last_logits(plain, p["ids"], scratch)
            worst = max(abs(a - b) for a, b in zip(got, p["last_logits"]))
            check(f"{p['name']}: logits differ by {worst:g}", worst <= golden["tolerance"]["logits_abs"])
            beyond = last_logits(short, p["ids"], scratch)
            moved = max(abs(a - b) for a, b in zip(got, beyond))
            check(f"{p['name']}: {len(p['ids'])} tokens, seq_length 16 moves logits by {moved:g}",
                  (moved > 1e-3) == (len(p["ids"]) > 16))
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
