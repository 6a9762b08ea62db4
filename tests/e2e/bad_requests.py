# SPDX-License-Identifier: Apache-2.0
"""Requests that a server must refuse, as bytes, in groups: [(group, [(name, bytes, allowed(statuses, answer))])]."""
import json

HOST = b"Host: localhost\r\n"
CLOSE = b"Connection: close\r\n"
NAME = "qwen3-tied-bf16"


def refused(codes, got):
    """One answer, the client's fault, told as an object."""
    return len(codes) == 1 and 400 <= codes[0] < 500 and got.rpartition(b"\r\n\r\n")[2].startswith(b"{")


def only(*allowed):
    return lambda codes, got: len(codes) == 1 and codes[0] in allowed


def broken(codes, got):
    """HTTP itself is broken: the connection ends, with or without a word."""
    return not got or (len(codes) == 1 and (400 <= codes[0] < 500 or codes[0] in (501, 505)))


def post(path, body, extra=b"", kind=b"Content-Type: application/json\r\n"):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return b"POST " + path.encode() + b" HTTP/1.1\r\n" + HOST + CLOSE + kind + extra + b"Content-Length: %d\r\n\r\n" % len(body) + body


# ---- HTTP ----

def heads():
    get = b"GET /version HTTP/1.1\r\n"
    cases = [
        b"\0" * 200, b"\xff" * 200, bytes(range(256)) * 8, b"\r\n" * 5000, b"GET", b"GET /", b"GET /\r\n\r\n",
        b"GET  /version  HTTP/1.1\r\n" + HOST + b"\r\n",
        b"get /version HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /version http/1.1\r\n" + HOST + b"\r\n",
        b"GET /version HTTP/1.1x\r\n" + HOST + b"\r\n",
        b"GET /version HTTP/01.1\r\n" + HOST + b"\r\n", b"GET /version HTTP/3.0\r\n" + HOST + b"\r\n",
        b"GET /version HTTP/2.0\r\n" + HOST + b"\r\n",
        b"GET version HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /ver sion HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /\x01 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n", b"GET\t/version\tHTTP/1.1\r\n" + HOST + b"\r\n",
        b" GET /version HTTP/1.1\r\n" + HOST + b"\r\n",
        get + b"\r\n", get + HOST + HOST + b"\r\n", get + b"Host: a, b\r\n\r\n", get + b"Host: evil.example\r\n\r\n",
        get + b"Host: a b\r\n\r\n",
        get + b"Host:\r\n\r\n", get + b"Host localhost\r\n\r\n", get + b": x\r\n" + HOST + b"\r\n",
        get + HOST + b"A : b\r\n\r\n", get + HOST + b" folded: b\r\n\r\n", get + HOST + b"A: b\r\n\tfolded\r\n\r\n",
        get + HOST + b"A: \0\r\n\r\n",
        get + HOST + b"A: b\rc\r\n\r\n", get + HOST + b"A\xc3\xa9: b\r\n\r\n", get + HOST + b"A(: b\r\n\r\n",
        get[:-2] + b"\nHost: localhost\n\n",
        get[:-2] + b"\rHost: localhost\r\r", get + HOST + b"A: " + b"a" * 200000 + b"\r\n\r\n", get + HOST + b"A" * 200000,
        get + HOST + b"A: b\r\n" * 5000 + b"\r\n", b"GET /" + b"a" * 200000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", b"A" * 200000,
        b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n", b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n",
        b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET http://evil.example/version HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 300, get + HOST + b"Expect: cake\r\n\r\n",
    ]
    return [(repr(c[:60]), c, broken) for c in cases]


def bodies():
    to = b"POST /v1/completions HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
    good = json.dumps({"prompt": "x", "max_tokens": 1}).encode()
    n = b"%d" % len(good)
    chunk = b"%x\r\n" % len(good) + good + b"\r\n0\r\n\r\n"
    te = b"Transfer-Encoding: chunked\r\n"
    out = []
    for length in (b"-1", b"+5", b"0x10", b"1e3", b"5 5", b"5,5", b"5, 6", b"", b"abc", b"18446744073709551616", b"9" * 100, b"99999999",
        b"\xb2", b"5\x00",
                   n + b"\r\nContent-Length: 3", n + b"\r\nContent-Length: " + n + b"0"):
        out.append(to + b"Content-Length: " + length + b"\r\n\r\n" + good)
    for coding in (b"gzip", b"identity", b"chunked, chunked", b"chunked, gzip", b"gzip, chunked", b"xchunked", b"chunked;q=1",
        b"chun\x00ked", b"",
                   b"chunked\r\nTransfer-Encoding: chunked", b"chunked\r\nTransfer-Encoding: identity", b"\x0bchunked"):
        out.append(to + b"Transfer-Encoding: " + coding + b"\r\n\r\n" + chunk)
    out += [to + b"Content-Length: " + n + b"\r\n" + te + b"\r\n" + chunk, to + te + b"Content-Length: 3\r\n\r\n" + chunk,
            to + b"Transfer-Encoding : chunked\r\n\r\n" + chunk, to + b"Transfer-Encoding\r\n : chunked\r\n\r\n" + chunk,
            b"POST /v1/completions HTTP/1.0\r\n" + HOST + te + b"\r\n" + chunk]
    for first in (b"-1\r\n", b"-2\r\n", b"+5\r\n", b"0x5\r\n", b" 5\r\n", b"g\r\n", b"\r\n", b"\n", b"5\n" + b"{    \n0\n\n",
        b"ffffffffffffffff\r\n", b"7fffffff\r\n",
                  b"10000000000000001\r\n", b"0" * 5000, b"1;" + b"x" * 100000, b"1\x00\r\n", b"2\r\n{}XX0\r\n\r\n", b"2\r\n{}0\r\n\r\n",
                  b"5 5\r\n",
                  b"0\r\n" + b"A: b\r\n" * 5000 + b"\r\n", b"0\r\nbad trailer\r\n\r\n", b"0\r\nA: " + b"x" * 100000):
        out.append(to + te + b"\r\n" + first)
    for cut in (1, len(good) // 2, len(good) - 1):
        out.append(to + b"Content-Length: " + n + b"\r\n\r\n" + good[:cut])
        out.append(to + te + b"\r\n" + chunk[:cut])
    out.append(to + b"\r\n" + good)
    return [(repr(c[len(to):][:80]), c, broken) for c in out]


def routes():
    out = []
    for path in ("/nowhere", "/v1", "/v1/", "/v1/chat", "/v1/completions/", "/V1/completions", "//v1/completions", "/v1/../v1/completions",
        "/v1/%63ompletions%00",
                 "/%", "/%zz", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/v1/models/nobody", "/v1/responses/resp_x", "/api",
                     "/api/pull", "/api/delete",
                 "/v1/files", "/v1/fine_tuning/jobs", "/v1/audio/speech", "/v1/images/generations"):
        out.append((f"POST {path}", post(path, {"prompt": "x", "max_tokens": 1}), only(400, 404, 405, 501)))
    for method in (b"GET", b"PUT", b"DELETE", b"PATCH", b"HEAD"):
        for path in (b"/v1/completions", b"/v1/chat/completions", b"/v1/messages", b"/api/generate", b"/generate"):
            out.append((f"{method} {path}", method + b" " + path + b" HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n", only(405, 501)))
    for path in ("/health", "/metrics", "/v1/models", "/version"):
        out.append((f"POST {path}", post(path, {}), only(405)))
    good = {"prompt": "x", "max_tokens": 1}
    for kind in (b"text/plain", b"multipart/form-data; boundary=x", b"application/jsonx", b"text/html", b"json"):
        out.append((f"type {kind}", post("/v1/completions", good, kind=b"Content-Type: " + kind + b"\r\n"), only(400, 415)))
    for coding in (b"gzip", b"br", b"zstd"):
        out.append((f"coding {coding}", post("/v1/completions", good, b"Content-Encoding: " + coding + b"\r\n"), only(400, 415)))
    form = b"Content-Type: application/x-www-form-urlencoded\r\n"
    out.append(("a foreign page's form", post("/v1/completions", good, b"Origin: http://evil.example\r\n", form), only(403)))
    out.append(("foreign origin", post("/v1/completions", good, b"Origin: http://evil.example\r\n"), only(403)))
    out.append(("null origin", post("/v1/completions", good, b"Origin: null\r\n"), only(403)))
    out.append(("cross site", post("/v1/completions", good, b"Sec-Fetch-Site: cross-site\r\n"), only(403)))
    return out


# ---- JSON ----

def texts():
    whole = b'{"prompt": "x", "max_tokens": 1}'
    cases = [
        b"", b" ", b"\0", b"null", b"true", b"1", b'"x"', b"[]", b"[" * 100, b"[" * 100000, b'{"a":' * 100000,
        b'{"prompt":' + b"[" * 65 + b"]" * 65 + b"}",
        b'{"prompt":"x","a":' + b"[" * 1000 + b"]" * 1000 + b"}", b"{", b"}", b"{]", b"[}", b"{,}", b'{"prompt"}', b'{"prompt":}',
        b'{"prompt":"x",}',
        b'{"prompt":"x"', b'{"prompt":"x', b'{"prompt":"x"}}', whole + b"x", whole + whole, whole + b"\0", whole + b"\n[]",
        b"\xef\xbb\xbf" + whole,
        whole.decode().encode("utf-16"), whole.decode().encode("utf-32-le"), b"{'prompt':'x'}", b"{prompt:1}", b'{"prompt":"x"/*c*/}',
            b"//c\n" + whole,
        b'{"prompt":"x","prompt":"y"}', b'{"prompt":"x","a":{"b":1,"b":2}}', b'{"prompt":"x","pro\\u006dpt":"y"}', b'{"prompt":"\\ud800"}',
        b'{"prompt":"\\udc00x"}',
        b'{"prompt":"\\ud800\\ud800"}', b'{"\\ud800":1,"prompt":"x"}', b'{"prompt":"\xff"}', b'{"prompt":"\xc0\x80"}',
        b'{"prompt":"\xed\xa0\x80"}',
        b'{"prompt":"\xf4\x90\x80\x80"}', b'{"prompt":"\xe2\x82"}', b'{"prompt":"\n"}', b'{"prompt":"\0"}', b'{"prompt":"\x1f"}',
        b'{"prompt":"\\x41"}',
        b'{"prompt":"\\u12"}', b'{"prompt":"\\u12g4"}', b'{"prompt":"\\', b'{"prompt":"x","max_tokens":01}',
        b'{"prompt":"x","max_tokens":+1}',
        b'{"prompt":"x","max_tokens":.5}', b'{"prompt":"x","max_tokens":1.}', b'{"prompt":"x","max_tokens":1e}',
        b'{"prompt":"x","max_tokens":-}',
        b'{"prompt":"x","max_tokens":0x10}', b'{"prompt":"x","max_tokens":NaN}', b'{"prompt":"x","max_tokens":Infinity}',
        b'{"prompt":"x","max_tokens":1e400}',
        b'{"prompt":"x","temperature":-1e400}', b'{"prompt":"x","max_tokens":99999999999999999999999}',
        b'{"prompt":"x","max_tokens":' + b"9" * 100000 + b"}",
        b'{"prompt":"x","max_tokens":9223372036854775808}', b'{"prompt":"x","max_tokens":-9223372036854775809}',
        b'{"prompt":"x","max_tokens":TRUE}',
        b'{"prompt":"x","stream":True}', b'{"prompt":"x","stream":nul}', b'{"prompt":"x" "max_tokens":1}', b'{"prompt":"x","max_tokens" 1}',
        b'{"prompt":"x",\x0b"n":1}',
        b'{"prompt":"x","a":[1,]}', b'{"prompt":"x","a":[,1]}', b'{"prompt":"x","a":[1 2]}', b'{1:2}', b'{null:1}',
        b'{"a":1,"b":' + b'{"c":' * 64 + b"1" + b"}" * 65,
    ]
    out = [(repr(c[:70]), post("/v1/completions", c), refused) for c in cases]
    for path in ("/v1/chat/completions", "/v1/embeddings", "/v1/messages", "/v1/responses", "/api/generate", "/api/chat", "/generate",
        "/tokenize"):
        out += [(f"{path} {c[:40]!r}", post(path, c), refused) for c in (b"", b"[]", b"null", b"{", b'{"a":1}x', b'{"a":1,"a":2}',
            b"[" * 5000, b'{"a":"\\ud800"}')]
    return out


# ---- fields ----

def not_bool():
    return "true", 1, [], {}


def not_int(low=None, high=None):
    return ["1", True, [], {}, 1.5, 1e300, 2**63 - 1, -2**63] + ([] if low is None else [low - 1]) + ([] if high is None else [high + 1])


def not_number(low, high):
    return ["1", True, [], {}, 1e300, -1e300, low - 0.01, high + 0.01]


def not_text(*more):
    return [1, True, [], {}, "a\0b", *more]


def not_list(*more):
    return ["x", 1, True, {}, *more]


def not_object(*more):
    return ["x", 1, True, [], *more]


MANY = {str(i): 1 for i in range(1025)}
SAMPLING = {
    "temperature": not_number(0, 2), "top_p": not_number(0, 1), "top_k": not_int(-1), "min_p": not_number(0, 1), "typical_p": not_number(0,
        1),
    "n": not_int(1, 16), "presence_penalty": not_number(-2, 2), "frequency_penalty": not_number(-2, 2),
        "repetition_penalty": not_number(0.01, 10),
    "min_tokens": not_int(0), "ignore_eos": not_bool(), "beam_width": not_int(0, 16), "length_penalty": not_number(-10, 10),
        "cache_salt": not_text("", "x" * 257),
    "max_tokens": not_int(0) + [0, 2**31], "seed": ["1", True, [], {}, 1.5], "stop": [1, True, {}, [1], [None], [[]], "", [""], ["x"] * 17,
        "x" * 257, ["a\0"]],
    "stop_token_ids": not_list([-1], [480000], ["1"], [1.5], [None], [1] * 1025, [2**63 - 1]),
    "logit_bias": not_object({"x": 1}, {"-1": 1}, {"999999": 1}, {"1": "x"}, {"1": 101}, {"1": -101}, {"1": None}, {"": 1}, {"1 ": 1},
        MANY),
    "priority": [99, -1, 1.5, True, [], {}, "nobody"], "stream": not_bool(), "model": not_text("nobody", "", "../x", "x" * 10000),
}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
TURNS = not_list([], [1], [None], ["x"], [[]], [{}], [{"role": "user"}], [{"content": "x"}], [{"role": 1, "content": "x"}],
    [{"role": "nobody", "content": "x"}],
                 [{"role": "user", "content": 1}], [{"role": "user", "content": {}}], [{"role": "user", "content": [1]}], [{"role": "user",
                     "content": [{}]}],
                 [{"role": "user", "content": [{"type": "text"}]}], [{"role": "user", "content": [{"type": "text", "text": 1}]}],
                 [{"role": "user", "content": [{"type": "nothing", "text": "x"}]}], [{"role": "user", "content": "x"}] * 4097)
CHAT_TURNS = TURNS + [[{"role": "assistant", "content": "", "tool_calls": "x"}], [{"role": "assistant", "content": "", "tool_calls": [1]}],
                      [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}]]
TOOLS = not_list([1], ["x"], [{}], [{"type": "function"}], [{"type": "function", "function": {}}], [{"type": "function",
    "function": {"name": 1}}], [TOOL] * 257)
USER = [{"role": "user", "content": "x"}]
APIS = [
    ("/v1/completions", {"prompt": "x", "max_tokens": 1}, {
        **SAMPLING, "prompt": [1, True, {}, [], [[]], [1.5], [-1], [480000], [None], [{}], [1, "x"], ["x", 1], [2**63 - 1], ["x"] * 1025,
            [1] * 5000],
        "logprobs": not_int(0, 20), "best_of": not_int(1, 16), "echo": not_bool(), "stream_options": not_object({"include_usage": 1}),
            "suffix": not_text()}),
    ("/v1/chat/completions", {"messages": USER, "max_tokens": 1}, {
        **SAMPLING, "messages": CHAT_TURNS, "tools": TOOLS, "logprobs": not_bool(), "top_logprobs": not_int(0, 20),
            "max_completion_tokens": not_int(0) + [0],
        "tool_choice": [1, True, [], "nobody", {"type": "function"}, {"type": "function", "function": {"name": "nobody"}}],
        "response_format": not_object({}, {"type": 1}, {"type": "nothing"}, {"type": "json_schema"}, {"type": "json_schema",
            "json_schema": 1}),
        "chat_template_kwargs": not_object(), "stream_options": not_object(), "reasoning_effort": not_text("")}),
    ("/v1/embeddings", {"input": "x"}, {
        "input": [1, True, {}, [], [[]], [1.5], [-1], [480000], [None], [{}], [1, "x"], ["x"] * 1025, [1] * 5000],
            "encoding_format": not_text("nothing"),
        "dimensions": not_int(1), "model": not_text("nobody")}),
    ("/v1/messages", {"model": NAME, "messages": USER, "max_tokens": 1}, {
        "messages": TURNS, "system": [1, True, {}, [1], [{}]], "max_tokens": not_int(0) + [0], "temperature": not_number(0, 2),
            "top_p": not_number(0, 1),
        "stop_sequences": not_list([1], [""], ["x"] * 17), "stream": not_bool(), "tools": not_list([1], [{}], [{"name": 1}]),
            "tool_choice": not_object({}, {"type": "nothing"}),
        "thinking": not_object({"type": "nothing"}), "model": not_text("nobody")}),
    ("/v1/responses", {"input": "x", "max_output_tokens": 1}, {
        "input": [1, True, {}, [1], [None], [{}], [{"role": "nobody", "content": "x"}], [{"type": "nothing"}]],
            "max_output_tokens": not_int(1), "instructions": not_text(),
        "temperature": not_number(0, 2), "top_p": not_number(0, 1), "stream": not_bool(), "tools": not_list([1], [{}]), "tool_choice": [1,
            True, [], "nobody"],
        "text": not_object({"format": 1}, {"format": {"type": "nothing"}}), "reasoning": not_object(), "truncation": not_text(),
            "metadata": not_object(),
        "previous_response_id": not_text("resp_nothing"), "model": not_text("nobody"), "top_logprobs": not_int(0, 20),
            "include": not_list()}),
    ("/api/generate", {"model": NAME, "prompt": "x", "stream": False, "options": {"num_predict": 1}}, {
        "prompt": not_text(), "system": not_text(), "template": not_text("{{"), "raw": not_bool(), "stream": not_bool(),
            "context": not_list(["x"], [-1], [480000]),
        "format": [1, True, [], "nothing"], "images": not_list(["x"]), "model": not_text("nobody"),
        "options": not_object({"num_predict": "1"}, {"num_predict": 1.5}, {"temperature": "hot"}, {"temperature": -1}, {"top_p": 2},
            {"top_k": "x"}, {"seed": "x"},
                              {"stop": 1}, {"stop": [1]}, {"num_predict": -3})}),
    ("/api/chat", {"model": NAME, "messages": USER, "stream": False, "options": {"num_predict": 1}}, {
        "messages": not_list([1], [None], [{}], [{"role": "nobody", "content": "x"}], [{"role": "user", "content": 1}]),
            "tools": not_list([1], [{}]),
        "stream": not_bool(), "options": not_object(), "model": not_text("nobody")}),
    ("/api/embed", {"model": NAME, "input": "x"}, {"input": [1, True, {}, [1], [None]], "truncate": not_bool(), "dimensions": not_int(1),
        "model": not_text("nobody")}),
    ("/generate", {"prompt": "x", "max_tokens": 1}, {"prompt": [1, True, {}, [None]], "stream": not_bool(), "max_tokens": not_int(0),
        "temperature": not_number(0, 2)}),
    ("/tokenize", {"prompt": "x"}, {"prompt": [1, True, {}], "messages": not_list([1]), "add_special_tokens": not_bool(),
        "model": not_text("nobody")}),
    ("/detokenize", {"tokens": [1]}, {"tokens": not_list(["x"], [-1], [480000], [1.5], [None]), "model": not_text("nobody")}),
]


def fields(path, good, wrong):
    out = []
    for name, values in wrong.items():
        for v in values:
            shown = json.dumps(v)
            out.append((f"{name}: {shown[:60]}", post(path, {**good, name: v}), refused))
    out += [(f"without {name}", post(path, {k: v for k, v in good.items() if k != name}), refused)
            for name in ("prompt", "messages", "input", "tokens") if name in good and path not in ("/api/generate", "/api/chat",
                "/api/embed")]
    return out


def groups():
    return [("heads", heads()), ("bodies", bodies()), ("routes", routes()), ("texts", texts()), *[(p, fields(p, good, wrong)) for p, good,
        wrong in APIS]]
