#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""quern serve: its life from listening to the last answer, its options, and answers that do not depend on who else asks.

usage: test_serve.py QUERN"""
import concurrent.futures
import json
import signal
import socket
import tempfile
from pathlib import Path

from cli import GOLDEN, check, finish, one_line, run
from server import Server

MODEL = GOLDEN / "models" / "qwen3-tied-bf16"
MOE = GOLDEN / "gguf" / "qwen3moe.gguf"


def ids(n, seed):
    out = []
    for _ in range(n):
        seed = (seed * 1664525 + 1013904223) % (1 << 32)
        out.append((seed >> 16) % 480)
    return out


def ask(s, prompt, n, **more):
    return s.post("/v1/completions", {"prompt": prompt, "max_tokens": n, "temperature": 0, "ignore_eos": True, **more})


def blocks_used(s):
    """K/V blocks that requests hold."""
    for line in s.get("/metrics")[2].split("\n"):
        if line.startswith("quern:kv_blocks_used"):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError("no quern:kv_blocks_used in /metrics")


def life():
    with Server("-m", MODEL) as s:
        check("health", s.get("/health")[0] == 200)
        check("ready", s.get("/ready")[0] == 200)
        status, answer = ask(s, "Once upon a time", 8)
        check("an answer", status == 200 and answer["usage"]["completion_tokens"] == 8, answer)
        names = [m["id"] for m in json.loads(s.get("/v1/models")[2])["data"]]
        check("the model's name is its folder's", names == ["qwen3-tied-bf16"], names)
        check("ends with 0", s.stop() == 0, s.log)
        text = "".join(s.lines)
        check("tells memory", "weights" in text and "K/V cache" in text, text)
        check("the log has no text", "Once upon" not in "".join(s.log), s.log)


def head_first():
    """The head of a stream goes out when the engine has the prompt, not with its first token; what cannot be answered is still no stream."""
    paths = [("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}), ("/v1/completions", {"prompt": "Hi"}),
             ("/v1/messages", {"messages": [{"role": "user", "content": "Hi"}]}), ("/v1/responses", {"input": "Hi"}), ("/generate", {"prompt": "Hi"})]
    with Server("-m", MODEL, "--batch", len(paths) + 1, "--batch-timeout", "60s") as s:  # nothing is computed until all have come
        open_streams = []
        for i, (path, body) in enumerate(paths):
            c = s.connect()
            c.request("POST", path, json.dumps({**body, "max_tokens": 2, "stream": True}), {"Content-Type": "application/json"})
            r = c.getresponse()
            open_streams.append((c, r))
            load = json.loads(s.get("/load")[2])
            check(f"{path}: the head comes first", r.status == 200 and r.getheader("Content-Type") == "text/event-stream"
                  and (load["running"], load["waiting"]) == (0, i + 1), (r.status, load))
            status, answer = s.post(path, {**body, "max_tokens": 100000, "stream": True})
            check(f"{path}: what is too long is no stream", status == 400, (status, answer))
        check("the one that all waited for", ask(s, "Hi", 1)[0] == 200)
        for (c, r), (path, _) in zip(open_streams, paths):
            text = r.read().decode()
            check(f"{path}: then all of it", text.count("data: ") > 2, text)
            c.close()


def long_context():
    for c, warns in ((4096, False), (4097, True)):
        with Server("-m", MODEL, "-c", c) as s:
            s.stop()
            check(f"a context of {c} where 4096 were trained", any("longer than the 4096" in line for line in s.log) == warns, s.log)


def takes_requests(s):
    try:
        return s.get("/ready")[0] == 200
    except OSError:
        return False


def drain():
    """A stop while answers run: each is whole; another stop ends at once."""
    with Server("-m", MODEL, "-c", "2048") as s:
        c = s.connect()
        c.request("POST", "/v1/completions", json.dumps({"prompt": ids(20, 1), "max_tokens": 1500, "temperature": 0, "ignore_eos": True,
                                                         "stream": True}), {"Content-Type": "application/json"})
        r = c.getresponse()
        first = r.readline()
        s.p.send_signal(signal.SIGTERM)
        rest = first + r.read()
        tokens = rest.count(b'"text"')
        check("a running answer ends whole", b"[DONE]" in rest and b'"finish_reason": "length"' in rest.replace(b'":"', b'": "'), rest[-300:])
        check("with all its tokens", tokens >= 100, tokens)
        check("and the exit status is 0", s.stop() == 0, s.log)
    with Server("-m", MODEL, "-c", "4096") as s:
        c = s.connect()
        c.request("POST", "/v1/completions", json.dumps({"prompt": ids(20, 1), "max_tokens": 4000, "temperature": 0, "ignore_eos": True,
                                                         "stream": True}), {"Content-Type": "application/json"})
        c.getresponse().readline()
        s.p.send_signal(signal.SIGTERM)
        while takes_requests(s):  # two signals at once may be one
            pass
        s.p.send_signal(signal.SIGTERM)
        check("twice: at once, with 0", s.stop() == 0, s.log)


def options():
    for args, words in (((), "no model"), (("-m", "nowhere.gguf"), "nowhere.gguf"), (("-m", MODEL, "--classes", "p0"), "NAME:TARGET:SHARE"),
                        (("-m", MODEL, "--classes", "p0:-:1", "--default-class", "p9"), "p9"), (("-m", MODEL, "--bucket", "x"), "bucket"),
                        (("-m", MODEL, "--batch", "many"), "adaptive:8-32"), (("-m", MODEL, "--host", "0.0.0.0"), "--api-key-file"),
                        (("-m", MODEL, "--tls-cert", "x"), "--tls-key"), (("-m", MODEL, "-m", MODEL), "two models"),
                        (("-m", MODEL, "--api-key-file", "nowhere"), "nowhere")):
        code, _, err = run("serve", *args, "--port", "0")
        check(f"serve {args}", code in (1, 2) and one_line(err) and words in err, (code, err))
    with tempfile.NamedTemporaryFile("w", suffix=".gguf") as f:
        f.write("not a model")
        f.flush()
        code, _, err = run("serve", "-m", f.name, "--port", "0")
        check("a broken model ends it", code == 1 and one_line(err) and Path(f.name).name in err, (code, err))


def keys():
    with tempfile.NamedTemporaryFile("w") as f:
        f.write("# keys\nsecret-a alice p0\nsecret-b bob\nsecret-c carol p1\n")
        f.flush()
        with Server("-m", MODEL, "--api-key-file", f.name, "--classes", "p0:-:60%,p1:-:40%") as s:
            body = {"prompt": "Hi", "max_tokens": 2}
            check("no key", s.post("/v1/completions", body)[0] == 401)
            check("a wrong one", s.post("/v1/completions", body, {"Authorization": "Bearer secret"})[0] == 401)
            check("a right one", s.post("/v1/completions", body, {"Authorization": "Bearer secret-a"})[0] == 200)
            check("in the other header", s.post("/v1/completions", body, {"x-api-key": "secret-b"})[0] == 200)
            check("health needs none", s.get("/health")[0] == 200)
            right = {"x-api-key": "secret-b"}
            check("a class by header", s.post("/v1/completions", body, {**right, "x-priority": "p0"})[0] == 200)
            check("by field", s.post("/v1/completions", {**body, "priority": "p1"}, right)[0] == 200)
            status, answer = s.post("/v1/completions", {**body, "priority": "p7"}, right)
            check("an unknown one is an error", status == 400 and "p7" in answer["error"]["message"], answer)
            check("in the header too", s.post("/v1/completions", body, {**right, "x-priority": "p7"})[0] == 400)
            status, answer = s.post("/v1/completions", {**body, "priority": "p0"}, {"x-api-key": "secret-c"})
            check("none above the key's", status == 400 and "less urgent" in answer["error"]["message"], answer)
            check("nor by header", s.post("/v1/completions", body, {"x-api-key": "secret-c", "x-priority": "p0"})[0] == 400)
            check("its own", s.post("/v1/completions", {**body, "priority": "p1"}, {"x-api-key": "secret-c"})[0] == 200)
            mine = s.get("/debug/timeline?last=1000", {"x-api-key": "secret-c"})[2]
            check("the timeline is the tenant's own", mine.count('"thread_name"') == 1, mine[:300])
            prompt = ids(200, 3)
            ask_as = lambda key: s.post("/v1/completions", {"prompt": prompt, "max_tokens": 2}, {"x-api-key": key})[1]
            cached = lambda a: a["usage"]["prompt_tokens_details"]["cached_tokens"]
            check("a prompt's first time", cached(ask_as("secret-a")) == 0)
            check("its second", cached(ask_as("secret-a")) == 192)
            check("of another tenant", cached(ask_as("secret-b")) == 0)
            check("no key in the log", s.stop() == 0 and "secret" not in "".join(s.log), s.log)


def together():
    """Each answer of a crowd in a small cache, with joins, leaves, preemptions and cached prefixes, is the one that it is alone."""
    for model in (MODEL, MOE):
        prompts = [ids(30, 9) + ids(10 + 25 * (i % 7), 40 + i // 2) for i in range(24)]
        with Server("-m", model, "-c", "512", "--max-seqs", "1", "--no-prefix-cache") as s:
            alone = [ask(s, p, 40)[1]["choices"][0]["text"] for p in prompts]
        with Server("-m", model, "-c", "512", "--max-seqs", "6", "--classes", "p0:500ms:50%,p1:-:30%:gap=20ms,p2:-:20%") as s, \
                concurrent.futures.ThreadPoolExecutor(24) as pool:
            got = list(pool.map(lambda i: ask(s, prompts[i], 40, priority=f"p{i % 3}"), range(24)))
            good = [g[0] == 200 and g[1]["choices"][0]["text"] == a for g, a in zip(got, alone)]
            check(f"{model.name}: the same text in a crowd", all(good), [got[i] for i, g in enumerate(good) if not g][:2])
            check("all blocks came back", blocks_used(s) == 0, blocks_used(s))


def unread():
    """An answer larger than what waits for a client is held, and comes whole once it is read."""
    with Server("-m", MODEL, "-c", "2048") as s:
        c = socket.socket()
        c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        c.connect(("127.0.0.1", s.port))
        body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1500, "n": 4, "logprobs": True, "top_logprobs": 20,
                           "stream": True, "ignore_eos": True})
        c.sendall(f"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        while json.loads(s.get("/metrics.json")[2])["models"][0]["output_tokens"] < 6000:
            pass
        text = b"".join(iter(lambda: c.recv(1 << 16), b""))
        check("more than may wait", len(text) > 8 << 20, len(text))
        check("an unread answer comes whole", text.endswith(b"data: [DONE]\n\n") and text.count(b'"finish_reason":"length"') == 4, text[-200:])


def main():
    life()
    head_first()
    long_context()
    unread()
    options()
    keys()
    together()
    drain()
    finish()


main()
