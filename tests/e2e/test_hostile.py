# SPDX-License-Identifier: Apache-2.0
"""Broken models and flags: each must end with status 1 (2: usage), one line naming the file, little time and little memory.

Every case is a good fixture with one thing changed. A row's last part is what the error must name besides the file.
"""
import concurrent.futures
import copy
import json
import os
import pathlib
import resource
import shutil
import struct
import subprocess
import tempfile
import threading

from cli import GOLDEN, QUERN, check, finish, skip

CPU_SECONDS, RSS_KIB, LINE_BYTES, WALL_SECONDS = 5, 1 << 20, 420, 120
MODELS = GOLDEN / "models"
TMP = pathlib.Path(tempfile.mkdtemp(prefix="quern-hostile-"))
GOOD, BAD, ANY, USAGE, LINES = "must load", "must be refused", "may load", "wrong usage", "an error for each line"
cases = []  # (name, arguments, want, [texts, one of each tuple in the error] or the number of lines, stdin)


# ---- GGUF: read, change, write ----

U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARR, U64, I64, F64 = range(13)
CODES = {U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", F32: "<f", BOOL: "<B", U64: "<Q", I64: "<q",
         F64: "<d"}


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        self.at += n
        return self.data[self.at - n:self.at]

    def number(self, code):
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def string(self):
        return self.take(self.number("<Q"))

    def value(self, kind):
        if kind == STR:
            return self.string()
        if kind != ARR:
            return self.number(CODES[kind])
        item, n = self.number("<I"), self.number("<Q")
        return item, [self.value(item) for _ in range(n)]


def packed_string(s):
    s = s.encode() if isinstance(s, str) else s
    return struct.pack("<Q", len(s)) + s


def packed_value(kind, v):
    if isinstance(v, Raw):
        return v.data
    if kind == STR:
        return packed_string(v)
    if kind != ARR:
        return struct.pack(CODES[kind], v)
    item, values = v
    return struct.pack("<IQ", item, len(values)) + b"".join(packed_value(item, x) for x in values)


class Raw:
    """Bytes written in place of a value."""

    def __init__(self, data):
        self.data = data


class Tensor:
    def __init__(self, name, dims, kind, offset, data=b""):
        self.name, self.dims, self.kind, self.offset, self.data = name, dims, kind, offset, data


class Gguf:
    def __init__(self, path):
        r = Reader(path.read_bytes())
        self.magic, self.version = r.take(4), r.number("<I")
        n_tensors, n_values = r.number("<Q"), r.number("<Q")
        self.n_tensors = self.n_values = None
        self.values = []
        for _ in range(n_values):
            key, kind = r.string(), r.number("<I")
            self.values.append([key, kind, r.value(kind)])
        self.tensors = []
        for _ in range(n_tensors):
            name = r.string()
            dims = [r.number("<Q") for _ in range(r.number("<I"))]
            self.tensors.append(Tensor(name, dims, r.number("<I"), r.number("<Q")))
        base = (r.at + 31) // 32 * 32
        ends = sorted(t.offset for t in self.tensors) + [len(r.data) - base]
        for t in self.tensors:
            t.data = r.data[base + t.offset:base + ends[ends.index(t.offset) + 1]]
        self.tail = r.data[base:]

    def find(self, key):
        return next(v for v in self.values if v[0] == key.encode())

    def set(self, key, kind, value):
        self.values = [v for v in self.values if v[0] != key.encode()] + [[key.encode(), kind, value]]

    def drop(self, key):
        self.values = [v for v in self.values if v[0] != key.encode()]

    def tensor(self, name):
        return next(t for t in self.tensors if t.name == name.encode())

    def header(self):
        out = [self.magic, struct.pack("<IQQ", self.version, len(self.tensors) if self.n_tensors is None else
                                       self.n_tensors, len(self.values) if self.n_values is None else self.n_values)]
        for key, kind, v in self.values:
            out += [packed_string(key), struct.pack("<I", kind), packed_value(kind, v) if kind < 13 else b"\0" * 8]
        for t in self.tensors:
            out += [packed_string(t.name), struct.pack("<I", len(t.dims)), struct.pack(f"<{len(t.dims)}Q", *t.dims),
                    struct.pack("<IQ", t.kind, t.offset)]
        return b"".join(out)

    def bytes(self):
        head = self.header()
        return head + b"\0" * (-len(head) % 32) + self.tail


GGUFS = {}


def gguf(change=None, base="qwen2"):
    if base not in GGUFS:
        GGUFS[base] = Gguf(GOLDEN / "gguf" / f"{base}.gguf")
    g = copy.deepcopy(GGUFS[base])
    if change:
        change(g)
    return g.bytes()


def add(name, args, want=BAD, texts=(), stdin=b""):
    cases.append((name, [str(a) for a in args], want, texts, stdin))


def model_args(path, command="eval"):
    return ["eval", "-m", path, "--tokens", "1,2,3"] if command == "eval" else \
        ["run", "-m", path, "--max-tokens", "1", "hi"]


def add_bytes(name, data, want=BAD, texts=(), command="eval"):
    path = TMP / f"g{len(cases)}.gguf"
    path.write_bytes(data)
    add(f"gguf: {name}", model_args(path, command), want, [(path.name,), *[(t,) for t in texts]])


def add_gguf(name, change, *texts, want=BAD, base="qwen2", command="eval"):
    add_bytes(name, gguf(change, base), want, texts, command)


def setter(key, kind, value):
    return lambda g: g.set(key, kind, value)


def tensor_edit(which, /, **fields):
    def change(g):
        for k, v in fields.items():
            setattr(g.tensor(which), k, v)
    return change


def gguf_structure():
    whole = gguf()
    head = len(GGUFS["qwen2"].header())
    for n in [0, 1, 3, 4, 7, 8, 15, 16, 23, 24, 25, 31, 32, 33, 100, 1000, 5000, head // 2, head - 1, head]:
        add_bytes(f"cut to {n} bytes", whole[:n])
    for n in [head + 1, len(whole) // 2, len(whole) - 1]:
        add_bytes(f"cut to {n} bytes", whole[:n], texts=["tensor"])
    for name, magic in [("GGML", b"GGML"), ("zip", b"PK\3\4"), ("zeros", b"\0" * 4), ("pickle", b"\x80\2ct")]:
        add_gguf(f"magic {name}", lambda g, m=magic: setattr(g, "magic", m))
    for v in [0, 1, 4, 2 << 24, 3 << 24, 0xFFFFFFFF]:
        add_gguf(f"version {v}", lambda g, v=v: setattr(g, "version", v))
    for n in [0, 1, 20, 22, 65537, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]:
        add_gguf(f"{n} values", lambda g, n=n: setattr(g, "n_values", n))
        add_gguf(f"{n} tensors", lambda g, n=n: setattr(g, "n_tensors", n))
    add_gguf("key twice", lambda g: g.values.append(g.values[2]), "qwen2.block_count")
    add_gguf("key empty", lambda g: g.values.append([b"", U32, 1]))
    add_gguf("key with NUL", lambda g: g.values.append([b"a\0b", U32, 1]))
    add_gguf("key not UTF-8", lambda g: g.values.append([b"\xff\xfe", U32, 1]))
    add_gguf("key of 64 KiB", lambda g: g.values.append([b"k" * 65536, U32, 1]))
    for kind in [13, 99, 0xFFFFFFFF]:
        add_gguf(f"value type {kind}", setter("x.y", kind, 0), "x.y")
    add_gguf("bool 2", setter("x.flag", BOOL, 2), "x.flag")
    add_gguf("array of arrays", setter("x.deep", ARR, Raw(struct.pack("<IQ", ARR, 1 << 20))), "x.deep")
    for n in [(1 << 24) + 1, 1 << 32, 1 << 61, (1 << 64) - 1]:
        add_gguf(f"array of {n}", setter("x.list", ARR, Raw(struct.pack("<IQ", U8, n))), "x.list")
        add_gguf(f"strings {n}", setter("x.list", ARR, Raw(struct.pack("<IQ", STR, n))), "x.list")
        add_gguf(f"string of {n}", setter("x.text", STR, Raw(struct.pack("<Q", n))), "x.text")
    for a in [0, 1, 4, 7, 33, 48, 131072, 1 << 31]:
        add_gguf(f"alignment {a}", setter("general.alignment", U32, a), "general.alignment")
    add_gguf("alignment a string", setter("general.alignment", STR, "32"), "general.alignment")


def gguf_tensors():
    q, name = "blk.0.attn_q.weight", "'blk.0.attn_q.weight'"
    for what, offset in [("odd", 33), ("past the end", 1 << 33), ("2^63", 1 << 63), ("2^64-32", (1 << 64) - 32)]:
        add_gguf(f"offset {what}", tensor_edit(q, offset=offset), name)
    add_gguf("overlap", lambda g: setattr(g.tensor(q), "offset", g.tensor("blk.0.attn_k.weight").offset), "blk.0.attn")
    add_gguf("tensor twice", lambda g: g.tensors.append(copy.deepcopy(g.tensor(q))), name)
    add_gguf("tensor name empty", tensor_edit(q, name=b""))
    add_gguf("tensor name long", tensor_edit(q, name=b"n" * 1000))
    add_gguf("tensor name with escapes", tensor_edit(q, name=b"\x1b[2J\x07"), "missing")
    for dims in [[], [0, 64], [64, 0], [1 << 32, 1 << 32], [1 << 63, 2], [(1 << 64) - 1], [64] * 5, [64] * 1000]:
        add_gguf(f"dims {str(dims)[:30]}", tensor_edit(q, dims=dims))
    for dims in [[64], [64, 32], [32, 64], [128, 64], [64, 64, 1], [1, 64, 64]]:
        add_gguf(f"shape {dims}", tensor_edit(q, dims=dims), q)
    for kind in [4, 5, 9, 15, 24, 25, 26, 27, 28, 31, 36, 41, 99, 0xFFFFFFFF]:
        add_gguf(f"type {kind}", tensor_edit(q, kind=kind), q)
    for kind in [2, 8, 12]:  # blocks where a vector of floats must be
        add_gguf(f"norm of type {kind}", tensor_edit("blk.0.attn_norm.weight", kind=kind), "blk.0.attn_norm.weight")
    for t in ["token_embd.weight", "output_norm.weight", "blk.0.attn_norm.weight", "blk.1.attn_q.weight",
              "blk.0.attn_k.bias", "blk.1.ffn_down.weight"]:
        add_gguf(f"without {t}", tensor_edit(t, name=b"other"), t)
    for t in ["blk.0.ffn_gate_exps.weight", "blk.1.ffn_down_exps.weight", "blk.1.ffn_gate_inp_shexp.weight"]:
        add_gguf(f"without {t}", tensor_edit(t, name=b"other"), t, base="qwen2moe")
    add_gguf("no router", tensor_edit("blk.1.ffn_gate_inp.weight", name=b"other"), "blk.1.ffn", base="qwen3moe")
    add_gguf("no q_norm", tensor_edit("blk.0.attn_q_norm.weight", name=b"other"), "blk.0.attn_q_norm", base="qwen3")
    add_gguf("matrix scale", lambda g: g.tensors.append(Tensor(b"blk.0.attn_q.scale", [1], 0, 0)), "attn_q")


def gguf_numbers():
    nan, inf = float("nan"), float("inf")
    rows = [("qwen2.block_count", U32, [0, 1 << 31, 513, 3, 0xFFFFFFFF]),
            ("qwen2.block_count", I32, [-1, -(1 << 31)]),
            ("qwen2.block_count", U64, [1 << 32, (1 << 64) - 1, (1 << 32) + 2]),
            ("qwen2.block_count", F32, [2.0, nan]),
            ("qwen2.block_count", STR, ["2"]), ("qwen2.block_count", BOOL, [1]),
            ("qwen2.embedding_length", U32, [0, 65537, 1 << 31]),
            ("qwen2.feed_forward_length", U32, [0, 1 << 31]),
            ("qwen2.attention.head_count", U32, [0, 1025, 1 << 31]),
            ("qwen2.attention.head_count_kv", U32, [0, 1025, 1 << 31]),
            ("qwen2.attention.key_length", U32, [0, 257, 1 << 31]),
            ("qwen2.context_length", U32, [0, 1 << 31, 0xFFFFFFFF]),
            ("qwen2.context_length", STR, ["4096"]),
            ("qwen2.attention.layer_norm_rms_epsilon", F32, [nan, inf, -inf, 0.0, -1.0, 1.0, 1e-45]),
            ("qwen2.attention.layer_norm_rms_epsilon", STR, ["1e-6"]),
            ("qwen2.rope.freq_base", F32, [0.0, inf, nan, -1.0, 0.5, 1e30]),
            ("qwen2.rope.dimension_count", U32, [0, 257, 1 << 31]),
            ("qwen2.rope.scaling.type", STR, ["longrope", "\x1b[2J" * 100]),
            ("qwen2.rope.scaling.type", U32, [1]),
            ("qwen2.rope.scaling.factor", F32, [nan, inf, -1.0, 1e30]),
            ("qwen2.attention.sliding_window", U32, [16]),
            ("general.architecture", STR, ["bert", "", "qwen35", "A" * (1 << 20), "\x1b]0;x\x07", "qwen2\0"]),
            ("general.architecture", U32, [1]),
            ("tokenizer.ggml.model", STR, ["llama", "bert", "", "\x1b[2J"]),
            ("tokenizer.ggml.pre", STR, ["", "default", "qwen2\n"]),
            ("tokenizer.ggml.eos_token_id", U32, [526, 0xFFFFFFFF]),
            ("tokenizer.ggml.eos_token_id", I32, [-1]),
            ("tokenizer.ggml.bos_token_id", U32, [100000]),
            ("tokenizer.ggml.add_bos_token", U32, [1]),
            ("tokenizer.chat_template", U32, [1])]
    for key, kind, values in rows:
        for v in values:
            texts = ["blk.2"] if (key, v) == ("qwen2.block_count", 3) else [key]
            if (key, v) == ("general.architecture", "qwen2\0"):
                texts = []
            add_gguf(f"{key} {str(v)[:24]!r}", setter(key, kind, v), *texts)
    for key, kind, v in [("qwen2.attention.head_count", U32, 3), ("qwen2.attention.head_count", U32, 64),
                         ("qwen2.attention.head_count_kv", U32, 3), ("qwen2.attention.head_count_kv", U32, 8),
                         ("qwen2.embedding_length", U32, 63), ("qwen2.embedding_length", U32, 128),
                         ("qwen2.attention.key_length", U32, 15), ("qwen2.attention.key_length", U32, 32),
                         ("qwen2.attention.value_length", U32, 32), ("qwen2.feed_forward_length", U32, 257),
                         ("qwen2.rope.dimension_count", U32, 3), ("qwen2.rope.dimension_count", U32, 32),
                         ("qwen2.expert_count", U32, 8)]:
        add_gguf(f"{key} {v}", setter(key, kind, v))
    for key in ["general.architecture", "qwen2.block_count", "qwen2.embedding_length", "qwen2.attention.head_count",
                "tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens", "tokenizer.ggml.token_type",
                "tokenizer.ggml.merges"]:
        add_gguf(f"no {key}", lambda g, k=key: g.drop(k), key)
    for key, values in [("expert_count", [0, 7, 9, 1025]), ("expert_used_count", [0, 9, 1 << 31]),
                        ("expert_feed_forward_length", [31, 1 << 31])]:
        for v in values:
            add_gguf(f"{key} {v}", setter(f"qwen3moe.{key}", U32, v), base="qwen3moe")


def token_edit(change):
    """change(list of tokens)."""
    def edit(g):
        v = g.find("tokenizer.ggml.tokens")
        change(v[2][1])
    return edit


def gguf_tokenizer():
    key = "tokenizer.ggml."
    add_gguf("token twice", token_edit(lambda t: t.__setitem__(5, t[6])), key + "tokens")
    add_gguf("a token less", token_edit(lambda t: t.pop()), key + "token_type")
    add_gguf("a token more", token_edit(lambda t: t.append(b"more")), key + "token_type")
    add_gguf("no tokens", token_edit(lambda t: t.clear()), key + "token")
    add_gguf("special token twice", token_edit(lambda t: t.__setitem__(500, t[499])), key + "tokens")
    add_gguf("tokens of numbers", setter(key + "tokens", ARR, (U32, [1, 2])), key + "tokens")
    add_gguf("tokens a string", setter(key + "tokens", STR, "abc"), key + "tokens")
    add_gguf("types of strings", setter(key + "token_type", ARR, (STR, ["1"] * 526)), key + "token_type")
    add_gguf("types of floats", setter(key + "token_type", ARR, (F32, [float("nan")] * 526)), key + "token_type")
    add_gguf("type 0", setter(key + "token_type", ARR, (I32, [0] * 526)), key + "token_type")
    add_gguf("type -1", setter(key + "token_type", ARR, (I32, [-1] * 526)), key + "token_type")
    for name, merge in [("empty", b""), ("no space", b"ab"), ("two spaces", b"a b c"), ("unknown", b"qqq zzz"),
                        ("only a space", b" "), ("not UTF-8", b"\xff \xfe"), ("escapes", b"\x1b[2J x"),
                        ("1 MiB", b"a" * (1 << 20))]:
        add_gguf(f"merge {name}", lambda g, m=merge: g.find(key + "merges")[2][1].__setitem__(3, m), key + "merges")
    add_gguf("merges of numbers", setter(key + "merges", ARR, (I32, [1])), key + "merges")

    def more_tokens(g):
        g.find(key + "tokens")[2][1].append(b"zzz")
        g.find(key + "token_type")[2][1].append(1)
    add_gguf("more tokens than rows", more_tokens)
    for name, text in [("cut", "{% for m in messages %}"), ("unknown tag", "{% import 'os' %}"), ("bad", "{{ ( }}"),
                       ("deep", "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}"),
                       ("loop", "{% for i in range(10 ** 10) %}x{% endfor %}"),
                       ("recursive", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"),
                       ("undefined", "{{ a.b.c }}"),
                       ("power", "{{ 9 ** 9 ** 9 }}"), ("divide", "{{ 1 // 0 }}"), ("repeat", "{{ 'x' * 10 ** 12 }}"),
                       ("big", "x" * ((256 << 10) + 1)), ("not UTF-8", b"\xff\xfe")]:
        add_bytes(f"template {name}", gguf(setter("tokenizer.chat_template", STR, text)), texts=(),
                  command="run")


    path = TMP / "raises.gguf"
    path.write_bytes(gguf(setter("tokenizer.chat_template", STR, "{{ raise_exception('\x1b[2J\nno\xff') }}")))
    add("gguf: template raises", model_args(path, "run"), BAD, [("\\x1b[2J\\x0ano",)])


def gguf_noise():
    """Bytes changed at random places: may load, must not crash or hang."""
    whole = gguf(base="qwen3moe")
    head = len(GGUFS["qwen3moe"].header())
    state = 12345
    for i in range(24):
        data = bytearray(whole)
        for _ in range(1 + i % 4):
            state = state * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
            data[(state >> 33) % (head if i % 3 else len(data))] = state >> 20 & 255
        add_bytes(f"noise {i}", bytes(data), ANY)
    for base in ["qwen2", "qwen3moe"]:  # weights that are all NaN
        data = gguf(base=base)
        n = len(GGUFS[base].header())
        bad = data[:n] + b"\xff" * (len(data) - n)
        add_bytes(f"NaN weights {base}", bad, BAD, ["NaN"])
        path = TMP / f"g{len(cases) - 1}.gguf"
        add(f"NaN weights {base}, run", model_args(path, "run"), BAD, [("NaN",)])
        add(f"NaN weights {base}, beam", [*model_args(path, "run"), "--beam", "2"], BAD, [("NaN",)])


# ---- Hugging Face folders ----

def folder(base):
    path = TMP / f"h{len(cases)}"
    path.mkdir()
    for f in (MODELS / base).iterdir():
        if not f.name.startswith("golden."):
            os.symlink(f, path / f.name)
    return path


def put(path, data):
    path.unlink(missing_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def add_folder(name, base, change, *texts, want=BAD, command="eval"):
    path = folder(base)
    change(path)
    add(f"{base}: {name}", model_args(path, command), want, [t if isinstance(t, tuple) else (t,) for t in texts])


def json_edit(file, change):
    def edit(path):
        o = json.loads((path / file).read_text())
        o = change(o) or o
        put(path / file, json.dumps(o))
    return edit


def field(file, key, value):
    """key: "a.b" is b inside a."""
    def change(o):
        *outer, last = key.split(".")
        for k in outer:
            o = o[k]
        o[last] = value
    return json_edit(file, change)


def text_edit(file, text):
    return lambda path: put(path / file, text)


WRONG = [[], {}, "x", True, 1.5]


def hf_config():
    base, file = "qwen3-untied-f32", "config.json"
    big = [0, -1, 1 << 31, (1 << 63) - 1, 1e300]
    rows = [("hidden_size", [0, -1, 65537, 1 << 40, "64", None]), ("num_hidden_layers", big + ["2", 513, None, [2]]),
            ("num_attention_heads", big + [1025, None]), ("num_key_value_heads", big + [3, 8]),
            ("head_dim", big + [23, 258, 1]), ("intermediate_size", big + [143]), ("vocab_size", big + [558, 556, None]),
            ("max_position_embeddings", big), ("rms_norm_eps", [0, -1, 1, 1e300, "1e-6"]),
            ("rope_theta", [0, -1, 0.5, 1e300, "x"]), ("hidden_act", ["gelu", 1]), ("attention_bias", ["no", 1, True]),
            ("tie_word_embeddings", ["no"]), ("layer_types", [{}, [], ["full_attention"], ["x", "y"], [1, 2],
                                                              ["sliding_attention"] * 2]),
            ("sliding_window", [-1, "x", 1 << 40]), ("use_sliding_window", [1]), ("max_window_layers", [-1, "x"]),
            ("rope_scaling", [1, [], {"type": "dynamic", "factor": 2}, {"type": 1}, {"type": "yarn", "factor": 0},
                              {"type": "linear"}, {"type": "linear", "factor": 0}, {"type": "llama3"},
                              {"type": "yarn", "factor": 1e300}, {"type": "yarn", "factor": 2, "beta_fast": 1,
                                                                  "beta_slow": 32},
                              {"type": "yarn", "factor": 2, "original_max_position_embeddings": 0}]),
            ("partial_rotary_factor", [0, -1, 2, 0.04, "x"]), ("model_type", ["bert", 1, None, "qwen3_next", "\x1b[2J"]),
            ("text_config", [1, [], {}, {"model_type": "x"}]), ("quantization_config", [1, [], {}, {"quant_method": "x"},
                                                                                        {"quant_method": 1}]),
            ("bos_token_id", [-1, 557, "x", 1 << 40]), ("eos_token_id", [{}, True])]
    skipped = {("eos_token_id", "{}"), ("eos_token_id", "True")}  # generation_config.json wins: may load
    named = {"vocab_size": "vocab_size", "num_hidden_layers": "num_hidden_layers"}
    for key, values in rows:
        for v in values:
            texts = [(named[key], "embed_tokens", "missing", "tokens")] if key in named else []
            want = ANY if (key, str(v)) in skipped or (key, v) == ("hidden_act", None) else BAD
            add_folder(f"{key} {str(v)[:30]!r}", base, field(file, key, v), (file, "h" + str(len(cases))), *texts,
                       want=want)
    for i, text in enumerate(["", " ", "{", "[]", "1", "nul", "{}", "\0", "{\"a\":1,\"a\":2}", "[" * 100000,
                              "{\"a\":" * 5000, "{\"a\": 1e999}", "{\"a\": NaN}", "\ufeff{}", b"{\"\xff\": 1}",
                              "{\"model_type\": \"qwen3\"} x", "{\"a\": \"\\ud800\"}", "{\"a\": " + "9" * 5000 + "}"]):
        add_folder(f"config text {i}", base, text_edit(file, text), file)


def hf_moe_and_quant():
    for key, values in [("num_experts", [0, -1, 7, 9, 1025, 1 << 40]), ("num_experts_per_tok", [0, -1, 17, "x"]),
                        ("moe_intermediate_size", [0, -1, 31]), ("decoder_sparse_step", [0, -1, "x", 2]),
                        ("mlp_only_layers", [1, ["x"], [0]]), ("norm_topk_prob", [1])]:
        for v in values:
            add_folder(f"{key} {v!r}", "qwen3moe", field("config.json", key, v), want=ANY if v == [0] else BAD)
    q = "quantization_config."
    rows = [("qwen2-gptq4", [(q + "bits", [0, 2, 3, 8, 33, "4", -1]), (q + "group_size", [0, -2, 7, 16, 64, 1 << 40, "x"]),
                             (q + "sym", ["x"]), (q + "checkpoint_format", ["marlin", 1])]),
            ("qwen2-awq4", [(q + "bits", [0, 3, 8]), (q + "group_size", [0, 16, 1 << 40]), (q + "zero_point", [False, 1]),
                            (q + "version", ["gemv", 1])]),
            ("qwen2-nf4", [(q + "load_in_4bit", [False, 1]), (q + "bnb_4bit_quant_type", ["fp4", 1])]),
            ("qwen3-fp8", [(q + "weight_block_size", [[], [0, 32], [32], [-1, -1], [1 << 40, 1], [16, 16], "x", ["x", 1]]),
                           (q + "fmt", ["e5m2", 1])])]
    for base, fields in rows:
        for key, values in fields:
            for v in values:
                add_folder(f"{key} {v!r}", base, field("config.json", key, v))


def safetensors(path):
    data = path.read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + n]), data[8 + n:]


def with_header(text, data):
    text = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(text)) + text + data


def header_edit(change, file="model.safetensors", tail=b""):
    """change(header, data as bytearray) may return another text of the header."""
    def edit(path):
        head, data = safetensors(path / file)
        data = bytearray(data)
        text = change(head, data) or json.dumps(head)
        put(path / file, with_header(text, bytes(data) + tail))
    return edit


def hf_weights():
    base, file = "qwen3-untied-f32", "model.safetensors"
    q = "model.layers.0.self_attn.q_proj.weight"
    whole = (MODELS / base / file).read_bytes()
    for n in [0, 1, 7, 8, 9, 100, 1000, len(whole) // 2, len(whole) - 1]:
        add_folder(f"weights cut to {n}", base, text_edit(file, whole[:n]), file)
    for n in [0, 1, len(whole), 100000001, 1 << 32, 1 << 63, (1 << 64) - 1, (1 << 64) - 8]:
        add_folder(f"header of {n}", base, text_edit(file, struct.pack("<Q", n) + whole[8:]), file)
    add_folder("a byte behind", base, text_edit(file, whole + b"\0"), file)

    def member(key, value):
        return header_edit(lambda h, d: h[q].__setitem__(key, value))
    for key, values in [("dtype", ["F99", "", 1, None, "F16", "BF16", "I8", "F8_E5M2", "F" * 100000]),
                        ("shape", [[], [64], [96, 65], [-1, 64], [1.5], ["x"], {}, [1 << 62, 64], [1 << 63], [64, 96],
                                   [96, 64, 1], [1] * 100, [0, 64]]),
                        ("data_offsets", [[], [0], [1, 0], [0, 1 << 62], [-8, 8], [0.5, 8], "x", {}, [0, 24576, 3]]),
                        ("more", [1])]:
        for v in values:
            add_folder(f"{key} {str(v)[:24]}", base, member(key, v), q[:40])
    for key in ["dtype", "shape", "data_offsets"]:
        add_folder(f"no {key}", base, header_edit(lambda h, d, k=key: h[q].pop(k) and None), file, q[:40])
    add_folder("tensor twice", base, header_edit(
        lambda h, d: json.dumps(h)[:-1] + f', "{q}": ' + json.dumps(h[q]) + "}"), file, "twice")
    add_folder("field twice", base, header_edit(
        lambda h, d: json.dumps(h).replace('"dtype"', '"dtype": "F32", "dtype"', 1)), file, "twice")
    add_folder("two tensors at one place", base, header_edit(
        lambda h, d: h[q].__setitem__("data_offsets", h["lm_head.weight"]["data_offsets"])), file)
    add_folder("hole", base, header_edit(lambda h, d: h.pop(q) and None), file)
    add_folder("metadata a number", base, header_edit(lambda h, d: h.__setitem__("__metadata__", 1)), file)
    add_folder("metadata of numbers", base, header_edit(lambda h, d: h.__setitem__("__metadata__", {"a": 1})), file)
    for i, text in enumerate(["[]", "{", "{}", "{" * 60000, '{"a":' * 60000, '{"\\ud800":{}}', '{"a\\u0000":{}}',
                              b'{"\xff":{}}', "null", " {}", '{"":{"dtype":"F32","shape":[],"data_offsets":[0,0]}}',
                              '{"\x1b[2J": 1}', '{"\\u001b[2J": 1}', "{}" + " " * 1000 + "x"]):
        add_folder(f"header text {i}", base, lambda p, t=text: put(p / file, with_header(t, b"")),
                   (file, "embed_tokens"))
    for name in [q, "model.norm.weight", "lm_head.weight", "model.embed_tokens.weight",
                 "model.layers.1.self_attn.k_norm.weight"]:
        add_folder(f"without {name}", base, header_edit(lambda h, d, n=name: h.__setitem__("other", h.pop(n))),
                   name)


def hf_packed_weights():
    gptq = "model.layers.0.self_attn.o_proj."

    def index_to(value):
        def change(h, d):
            at = h[gptq + "g_idx"]["data_offsets"][0]
            d[at:at + 4] = struct.pack("<i", value)
        return change
    for v in [-1, 2, 1 << 20, (1 << 31) - 1, -(1 << 31)]:
        add_folder(f"g_idx {v}", "qwen2-gptq4-actorder", header_edit(index_to(v)), gptq + "g_idx")

    def without(name):
        return header_edit(lambda h, d: h.__setitem__("other", h.pop(name)))

    def shaped(name, shape):
        return header_edit(lambda h, d: h[name].__setitem__("shape", shape))
    for part in ["qweight", "scales", "g_idx"]:
        add_folder(f"no {part}", "qwen2-gptq4-actorder", without(gptq + part), want=ANY if part == "g_idx" else BAD)
        add_folder(f"{part} flat", "qwen2-gptq4-actorder", shaped(gptq + part, [4]))
    for part in ["qweight", "scales", "qzeros"]:
        add_folder(f"no {part}", "qwen2-awq4", without(gptq + part), gptq)
    nf4 = "model.layers.0.self_attn.o_proj.weight"
    state = nf4 + ".quant_state.bitsandbytes__nf4"
    for part in ["", ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map",
                 ".quant_state.bitsandbytes__nf4"]:
        add_folder(f"no weight{part}", "qwen2-nf4", without(nf4 + part), nf4)

    def nan_map(h, d):
        at = h[nf4 + ".quant_map"]["data_offsets"][0]
        d[at:at + 4] = b"\xff" * 4
    add_folder("NaN in the map", "qwen2-nf4", header_edit(nan_map), nf4 + ".quant_map")

    def new_state(text):
        def change(h, d):
            begin, end = h[state]["data_offsets"]
            new = text(json.loads(d[begin:end])) if callable(text) else text
            d[begin:end] = new.encode().ljust(end - begin)[:end - begin]
        return header_edit(change)

    def state_field(key, value):
        return new_state(lambda o: json.dumps({**o, key: value}, separators=(",", ":")))
    for i, text in enumerate(["", "{", "[]", "{}", "1", "[" * 20]):
        add_folder(f"state {i}", "qwen2-nf4", new_state(text), state)
    for key, v in [("blocksize", 0), ("blocksize", 3), ("blocksize", "x"), ("blocksize", -1), ("quant_type", "fp4"),
                   ("nested_blocksize", 0), ("shape", [1, 1]), ("shape", [64]), ("nested_offset", "x"),
                   ("shape", "x"), ("blocksize", 1 << 16)]:
        add_folder(f"state {key} {v!r}", "qwen2-nf4", state_field(key, v), nf4)


def hf_index():
    file, base = "model.safetensors.index.json", "qwen2-sharded"
    key = "model.norm.weight"

    def to(name):
        return json_edit(file, lambda o: o["weight_map"].__setitem__(key, name))
    for name in ["../model.safetensors", "/etc/passwd", "x/../y.safetensors", "", ".", "..", "a\0.safetensors", "a.bin",
                 ".safetensors", "no.safetensors", "\x1b[2J.safetensors", "a b.safetensors", "A" * 5000 + ".safetensors",
                 1, None, ["x"], "model-00001-of-00003.safetensors"]:
        add_folder(f"shard {str(name)[:30]!r}", base, to(name))
    for v in [1, [], {}, None, "x"]:
        add_folder(f"weight_map {v!r}", base, field(file, "weight_map", v), file)
    add_folder("no weight_map", base, json_edit(file, lambda o: o.pop("weight_map") and None), file)
    add_folder("missing tensor", base, json_edit(file, lambda o: o["weight_map"].__setitem__("zzz", "model-00001-of-00003"
                                                                                             ".safetensors")), "zzz")
    add_folder("unlisted tensor", base, json_edit(file, lambda o: o["weight_map"].pop(key) and None), key)
    add_folder("2000 shards", base, json_edit(file, lambda o: o["weight_map"].update(
        {f"t{i}": f"s{i}.safetensors" for i in range(2000)})), file)
    for i, text in enumerate(["", "{", "[]", "{\"weight_map\": {\"a\": \"b.safetensors\", \"a\": \"b.safetensors\"}}",
                              "[" * 10000]):
        add_folder(f"index text {i}", base, text_edit(file, text), file)


def hf_tokenizer():
    base, file = "qwen3-untied-f32", "tokenizer.json"

    def at(key, value):
        return field(file, key, value)
    rows = [("normalizer", [1, "x", {"type": "NFKC"}, {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}]),
            ("pre_tokenizer", [1, None, {"type": "Whitespace"}, {"type": "Sequence", "pretokenizers": []},
                               {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}]},
                               {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"}]),
            ("decoder", [None, 1, {"type": "WordPiece"}]),
            ("post_processor", [1, {"type": "RobertaProcessing"}, {"type": "TemplateProcessing"},
                                {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "no"}},
                                                                          {"Sequence": {"id": "A"}}]}]),
            ("model", [1, None, [], {}, {"type": "WordPiece"}]),
            ("model.vocab", [1, None, [], {}, {"a": "x"}, {"a": -1}, {"a": 1 << 40}, {"a": 0, "b": 0}, {"a": 1 << 24},
                             {"a": 16777215}]),
            ("model.merges", [1, None, {}, [1], ["a"], ["a b c"], [["a"]], [["a", 1]], ["zz zz"], [["\x1b[2J", "x"]]]),
            ("model.unk_token", [1]), ("model.dropout", [0.1]), ("model.continuing_subword_prefix", ["##"]),
            ("added_tokens", [1, "x", [1], [{}], [{"id": -1, "content": "x"}], [{"id": 1 << 40, "content": "x"}],
                              [{"id": "x", "content": "x"}], [{"id": 600, "content": 1}],
                              [{"id": 1, "content": "<x>"}], [{"id": 600, "content": "x", "special": 1}]])]
    for key, values in rows:
        for v in values:
            unknown = (key == "model.unk_token") or (key, str(v)[:12]) == ("normalizer", "x")
            add_folder(f"{key} {str(v)[:40]!r}", base, at(key, v), *([] if unknown else [(file, "h" + str(len(cases)))]),
                       want=ANY if unknown or v in (1, "x") and key in ("normalizer", "post_processor") else BAD,
                       command="run")
    conf = "tokenizer_config.json"

    # a template's text full of an added token that is written in other bytes than its own
    def slow_template(path):
        field(file, "added_tokens", [{"id": 531, "content": "\u00e9q", "normalized": True, "special": True}])(path)
        json_edit(conf, lambda o: o.pop("added_tokens_decoder") and None)(path)
        field(conf, "chat_template", "{% for i in range(20) %}" + "e\u0301q\u00e9q" * 25000 + "{% endfor %}")(path)
    add_folder("template full of a token", base, slow_template, "maximum context length", command="run")
    for i, text in enumerate(["", "{", "[]", "1", "{}", "{\"model\":{},\"model\":{}}", "[" * 200000,
                              "[" + "0," * 3000000 + "0]"]):
        add_folder(f"tokenizer text {i}", base, text_edit(file, text), file)
    add_folder("no tokenizer", base, lambda p: (p / file).unlink(), "tokenizer")
    for key, v, want in [("added_tokens_decoder", {"x": {"content": "a"}}, BAD), ("added_tokens_decoder", {"9": 1}, BAD),
                         ("added_tokens_decoder", {"99999999": {"content": "zz"}}, BAD), ("add_bos_token", "x", BAD),
                         ("added_tokens_decoder", {"600": {"content": "zz"}}, BAD), ("bos_token", 1, ANY),
                         ("eos_token", {"content": 1}, ANY), ("chat_template", 1, ANY), ("chat_template", [{}], ANY),
                         ("chat_template", "{% if %}", BAD), ("chat_template", "{{ x.y.z }}", BAD)]:
        add_folder(f"{key} {str(v)[:30]}", base, field(conf, key, v), want=want, command="run")
    for text in ["", "[]", "{", "[" * 10000]:
        add_folder(f"{conf} text {text[:4]!r}", base, text_edit(conf, text), conf, want=ANY if text == "[]" else BAD)
    gen = "generation_config.json"
    for key, v in [("temperature", "hot"), ("temperature", -1), ("temperature", 1e300), ("top_k", -1), ("top_k", "x"),
                   ("top_k", 1 << 40), ("top_p", 2), ("top_p", -0.5), ("top_p", []), ("do_sample", "x"), ("min_p", 2),
                   ("repetition_penalty", -1), ("repetition_penalty", "x"), ("typical_p", 3), ("eos_token_id", -1),
                   ("eos_token_id", 557), ("eos_token_id", "x"), ("eos_token_id", [[1]]),
                   ("eos_token_id", list(range(17))), ("eos_token_id", {})]:
        add_folder(f"generation {key} {str(v)[:20]!r}", base, field(gen, key, v), gen, key)
    for text in ["", "[]", "{", "{\"a\":1,\"a\":1}"]:
        add_folder(f"{gen} text {text!r}", base, text_edit(gen, text), gen)


# ---- files that are none, and flags ----

def odd_files():
    base, file = "qwen3-untied-f32", "model.safetensors"

    def fifo(name):
        def change(path):
            (path / name).unlink(missing_ok=True)
            os.mkfifo(path / name)
        return change

    def loop(name):
        def change(path):
            (path / name).unlink(missing_ok=True)
            os.symlink(path / name, path / name)
        return change

    def into_folder(name):
        def change(path):
            (path / name).unlink(missing_ok=True)
            (path / name).mkdir()
        return change
    for name in ["config.json", file, "tokenizer.json"]:
        for kind, change in [("pipe", fifo), ("loop", loop), ("folder", into_folder)]:
            add_folder(f"{name} a {kind}", base, change(name))
    for kind, change in [("pipe", fifo), ("loop", loop), ("folder", into_folder)]:
        add_folder(f"shard a {kind}", "qwen2-sharded", change("model-00002-of-00003.safetensors"), "model-00002")
    os.mkfifo(TMP / "pipe.gguf")
    os.symlink(TMP / "ring.gguf", TMP / "ring.gguf")
    (TMP / "empty").mkdir()
    (TMP / "folder.gguf").mkdir()
    (TMP / "empty.gguf").touch()
    (TMP / "text.txt").write_text("hello\n")
    for name in ["pipe.gguf", "ring.gguf", "empty", "folder.gguf", "empty.gguf", "text.txt", "none.gguf"]:
        add(f"model {name}", model_args(TMP / name), BAD, [(name,)])
    for path in ["/dev/zero", "/dev/null", "/dev/tty", "/", "/proc/self/mem"]:
        add(f"model {path}", model_args(path), BAD, [(path,)])
    add("model of escapes", model_args(TMP / "\x1b[2J\n.gguf"))
    add("model of 5000 bytes", model_args("m" * 5000))
    add("model not UTF-8", ["eval", "-m", os.fsdecode(b"/tmp/\xff\xfe.gguf"), "--tokens", "1"])
    if os.geteuid() == 0:
        skip("unreadable file", "root reads everything")
    else:
        (TMP / "closed.gguf").write_bytes(gguf())
        os.chmod(TMP / "closed.gguf", 0)
        add("unreadable file", model_args(TMP / "closed.gguf"), BAD, [("closed.gguf",)])


def flags():
    small = GOLDEN / "gguf" / "qwen2.gguf"
    e = ["eval", "-m", small]
    for ids in ["526", "1,999999", "2147483647", "2147483648", "-1", "x", "", ",", "1,,2", "1;2", "1e3", "\x1b[2J",
                "18446744073709551617"]:
        add(f"--tokens {ids!r}", [*e, "--tokens", ids], (BAD, USAGE), [("tokens", "token")])
    for flag, values in [("--threads", ["-1", "257", "x", "99999999999999999999"]), ("--max-ctx", ["-1", "x", "16777217"]),
                         ("--window", ["-1", "x", "16777217"]), ("--chunk", ["-1", "65537", "nan"]),
                         ("--max-seqs", ["-1", "1025"]), ("--max-batch-tokens", ["-1", "65537"]), ("--no-such", ["1"])]:
        for v in values:
            add(f"{flag} {v}", [*e, "--tokens", "1", flag, v], USAGE, [(flag,)])
    for flag, v in [("--logits", "/no/such/folder/x.npy"), ("--hidden", "/no/such/folder/x.npy"),
                    ("--against", "/no/such.npy"), ("--against", str(small)), ("--against", "/dev/zero")]:
        add(f"{flag} {v}", [*e, "--tokens", "1,2", flag, v], BAD, [(v,)])
    for name, data in [("odd", b"\x93NUMPY\1\0\7\0'<f4'  " + bytes(2 * 526 * 4)), ("cut", b"\x93NUMPY\1\0"),
                       ("long", b"\x93NUMPY\1\0\xff\xff'<f4'"), ("empty", b"")]:
        (TMP / f"{name}.npy").write_bytes(data)
        add(f"--against {name}", [*e, "--tokens", "1,2", "--against", TMP / f"{name}.npy"], BAD, [(f"{name}.npy",)])
    r = ["run", "-m", small, "--max-tokens", "1"]
    for flag, v in [("--temperature", "nan"), ("--temperature", "inf"), ("--top-p", "nan"), ("--top-k", "-1"),
                    ("--logit-bias", "1=nan"), ("--logit-bias", "x"), ("--n", "0"), ("--seed", "x"),
                    ("--max-tokens", "-1")]:
        add(f"{flag} {v}", [*r, flag, v, "hi"], USAGE, [(flag,)])
    add("--logit-bias 999999=1", [*r, "--logit-bias", "999999=1", "hi"], (BAD, USAGE), [("bias",)])
    t = ["tokenize", "-m", small]
    lines = [b"\xff\xfe{]", b"[" * 100000, b"12", b"", b"{}", b'{"text": 1}', b'{"text": "\\ud800"}', b"\0", b"{" * 9]
    add("jsonl garbage", [*t, "--jsonl"], LINES, len(lines), b"\n".join(lines))
    lines = [b'{"ids": [-1]}', b'{"ids": [99999]}', b'{"ids": [1e9]}', b'{"ids": {}}', b'{"ids": [99999999999999999999]}']
    add("jsonl garbage to decode", [*t, "--jsonl", "--decode"], LINES, len(lines), b"\n".join(lines))
    add("jsonl line of 64 MiB", [*t, "--jsonl"], LINES, 1, b"[" * (64 << 20))
    add("text of NULs", t, GOOD, [], b"\0" * 1000)
    add("text not UTF-8", t, ANY, [], bytes(range(256)) * 10)
    add("text of 4 MiB of one letter", t, GOOD, [], b"a" * (4 << 20))
    add("text of 4 MiB of spaces", t, GOOD, [], b" " * (4 << 20))
    add("text of 1 MiB of marks", t, GOOD, [], "a".encode() + "\u0301".encode() * (1 << 19))
    add("large steps", [*e, "--tokens", "1,2,3", "--max-batch-tokens", "65536", "--max-seqs", "1024"], GOOD)
    add("all threads", [*e, "--tokens", "1,2,3", "--threads", "256"], GOOD)
    add("large context", [*e, "--tokens", "1,2,3", "--max-ctx", "65536"], GOOD)


def more_tokenizers():
    """vocab.json with merges.txt, and qwen.tiktoken."""
    base = "qwen3-untied-f32"
    model = json.loads((MODELS / base / "tokenizer.json").read_text())["model"]
    vocab, merges = json.dumps(model["vocab"]), "#version: 0.2\n" + "\n".join(" ".join(m) for m in model["merges"])

    def lists(vocab, merges):
        def change(path):
            (path / "tokenizer.json").unlink()
            put(path / "vocab.json", vocab)
            put(path / "merges.txt", merges)
        return change
    for i, text in enumerate(["", "[]", "{}", '{"a": "x"}', '{"a": -1}', '{"a": 99999999}', '{"a": 0, "b": 0}', "{",
                              '{"a": 600}']):
        add_folder(f"vocab.json {i}", base, lists(text, ""), ("vocab.json", "tokens", "tokenizer"))
    for i, text in enumerate(["a", "a b c", " ", "zz zz", b"\xff \xfe", "\x1b[2J x", b"\0", "a" * (1 << 20)]):
        add_folder(f"merges.txt {i}", base, lists(vocab, text), "merges.txt")
    add_folder("control lists", base, lists(vocab, merges), want=GOOD)
    for i, text in enumerate(["", "x", "YQ==", "YQ== x", "YQ== -1", "YQ== 99999999", "!!!! 1", "YQ= 1", "= 1", "==== 1",
                              "YQ== 0\nYQ== 1", "YQ== 0\nYg== 0", "YQ== 600", "QUFB" * 200 + " 0", b"\xff\xff\xff\xff 1",
                              b"\0"]):
        add_folder(f"qwen.tiktoken {i}", base, lambda path, t=text: ((path / "tokenizer.json").unlink(),
                                                                    put(path / "qwen.tiktoken", t)),
                   ("qwen.tiktoken", "tokens"))


def splits():
    """Sets of GGUF files."""
    def split(name, count, number, tensors=None, kinds=(U16, U16, I32), second=None):
        stem = TMP / f"s{len(cases)}"

        def change(g):
            g.set("split.count", kinds[0], count)
            g.set("split.no", kinds[1], number)
            g.set("split.tensors.count", kinds[2], len(g.tensors) if tensors is None else tensors)
        first = pathlib.Path(f"{stem}-00001-of-00002.gguf")
        first.write_bytes(gguf(change))
        if second is not None:
            pathlib.Path(f"{stem}-00002-of-00002.gguf").write_bytes(second)
        add(f"gguf: split {name}", model_args(first), BAD, [(stem.name,)])

    split("without its second", 2, 0)
    split("second empty", 2, 0, second=b"")
    split("second the same", 2, 0, second=gguf())
    split("second text", 2, 0, second=b"hello")
    for count in [3, 1025, 65535]:
        split(f"count {count}", count, 0, second=gguf())
    for number in [1, 2, 65535]:
        split(f"number {number}", 2, number, second=gguf())
    split("count a string", "2", 0, kinds=(STR, U16, I32))
    split("count -1", -1, 0, kinds=(I32, U16, I32))
    split("count 2^31", 1 << 31, 0, kinds=(U32, U16, I32))
    split("number a string", 2, "0", kinds=(U16, STR, I32))

    def empty(g):
        g.tensors, g.tail = [], b""
        g.set("split.count", U16, 2)
        g.set("split.no", U16, 1)
    split("second without tensors", 2, 0, tensors=99, second=gguf(empty))


def controls():
    for base in ["qwen2", "qwen3", "qwen2moe", "qwen3moe"]:
        add_gguf(f"control {base}", None, want=GOOD, base=base)
    add_gguf("control version 2", lambda g: setattr(g, "version", 2), want=GOOD)
    add_gguf("control more metadata", setter("x.list", ARR, (F64, [1.0] * 10)), want=GOOD)
    add_gguf("control a wide number", setter("qwen2.block_count", U64, 2), want=GOOD)
    add_gguf("control no context", lambda g: g.drop("qwen2.context_length"), want=GOOD)
    for base in sorted(p.name for p in MODELS.iterdir() if (p / "config.json").is_file()):
        add_folder("control", base, lambda p: None, want=GOOD)
    add_folder("control more fields", "qwen3-untied-f32", field("config.json", "zzz", {"a": [1, None]}), want=GOOD)
    add_folder("control no generation", "qwen3-untied-f32", lambda p: (p / "generation_config.json").unlink(), want=GOOD)


# ---- running ----

def limits():
    resource.setrlimit(resource.RLIMIT_CPU, (4 * CPU_SECONDS, 4 * CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def measured(case):
    """(case, exit status, stderr or, for LINES, stdout, CPU seconds, KiB)."""
    args = [os.fsencode(a) for a in case[1]]
    with tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as text:
        text.write(case[4])
        text.seek(0)
        p = subprocess.Popen([QUERN, *args], stdin=text, preexec_fn=limits, stderr=err,
                             stdout=err if case[2] == LINES else subprocess.DEVNULL)
        timer = threading.Timer(WALL_SECONDS, p.kill)
        timer.start()
        _, status, usage = os.wait4(p.pid, 0)
        timer.cancel()
        p.returncode = os.waitstatus_to_exitcode(status)
        err.seek(0)
        return case, p.returncode, err.read(100000), usage.ru_utime + usage.ru_stime, usage.ru_maxrss


def fault(case, rc, err, seconds, kib):
    """What is wrong with the end of a run, or None."""
    _, args, want, texts, _ = case
    if rc < 0 or rc > 2:
        return f"status {rc}"
    if seconds > CPU_SECONDS or kib > RSS_KIB:
        return f"{seconds:.1f} s, {kib >> 10} MiB"
    if want == GOOD:
        return None if rc == 0 else "refused"
    if want == ANY and rc == 0:
        return None
    if want == LINES:
        n_errors = sum(line.startswith(b'{"error": "') and line.endswith(b'"}') for line in err.splitlines())
        return None if rc == 1 and n_errors == texts == err.count(b"\n") else f"status {rc}, {n_errors} errors"
    allowed = {BAD: (1,), ANY: (1,), USAGE: (2,)}.get(want, (1, 2))
    if rc not in allowed:
        return f"status {rc}"
    if not err.startswith(b"quern") or err.count(b"\n") != 1 or not err.endswith(b"\n"):
        return "not one line from quern"
    if len(err) > LINE_BYTES:
        return f"a line of {len(err)} bytes"
    if any(c < 0x20 or c == 0x7F for c in err[:-1]):
        return "control bytes"
    try:
        line = err.decode()
    except UnicodeDecodeError:
        return "not UTF-8"
    for choices in texts:
        if not any(c in line for c in choices):
            return f"does not name {' or '.join(choices)}"
    folders = [a for a in args if a.startswith(str(TMP / "h"))]
    names = (pathlib.Path(folders[0]).name, ".json", ".safetensors", "the prompt has") if folders else ()
    if rc == 1 and folders and not any(n in line for n in names):
        return "names no file"
    return None


def main():
    for part in [controls, gguf_structure, gguf_tensors, gguf_numbers, gguf_tokenizer, gguf_noise, hf_config,
                 hf_moe_and_quant, hf_weights, hf_packed_weights, hf_index, hf_tokenizer, more_tokenizers, splits, odd_files, flags]:
        part()
    try:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for case, rc, err, seconds, kib in pool.map(measured, cases):
                wrong = fault(case, rc, err, seconds, kib)
                check(case[0], wrong is None, f"{wrong}: {' '.join(case[1])[:200]!r}: {err[:600]!r}")
        n_good = sum(c[2] == GOOD for c in cases)
        check("enough cases", len(cases) - n_good >= 250 and n_good >= 15, f"{len(cases)}, {n_good} of them good")
    finally:
        shutil.rmtree(TMP)
    finish()


main()
