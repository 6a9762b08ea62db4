#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What one caller may take of what all share: places in the queue, bytes of bodies and answers, workers, connections; and what one
request may cost.

usage: test_bounds.py QUERN"""
import concurrent.futures
import contextlib
import json
import socket
import tempfile
import threading

from cli import GOLDEN, check, finish
from server import Server

MODEL = GOLDEN / "models" / "qwen3-tied-bf16"
ALICE, BOB = {"x-api-key": "secret-a"}, {"x-api-key": "secret-b"}


@contextlib.contextmanager
def tenants(*args):
    with tempfile.NamedTemporaryFile("w") as f:
        f.write("secret-a alice\nsecret-b bob\n")
        f.flush()
        with Server("-m", MODEL, "-c", "4096", "--api-key-file", f.name, *args) as s:
            yield s


def head(path, n, key):
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nx-api-key: {key['x-api-key']}\r\nContent-Type: application/json\r\nContent-Length: {n}\r\n\r\n".encode()


def connect(s, small=False):
    c = socket.socket()
    if small:
        c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    c.connect(("127.0.0.1", s.port))
    return c


def first_line(c):
    """The status that came; the rest of the answer stays where it is."""
    got = b""
    while b"\r\n" not in got:
        more = c.recv(1)
        if not more:
            return 0
        got += more
    return int(got.split()[1])


def n_answered(all_of_them):
    n = 0
    for c in all_of_them:
        try:
            c.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            n += 1
        except BlockingIOError:
            pass
        except OSError:
            n += 1
    return n


def waiting(s):
    return sum(m["waiting"] for m in json.loads(s.get("/load", ALICE)[2])["models"])


def until(s, what):
    for _ in range(100000):
        if what():
            return True
        s.get("/livez")
    return False


def queue():
    with tenants("--max-queue", "8", "--max-seqs", "1") as s, concurrent.futures.ThreadPoolExecutor(16) as pool:
        long = {"prompt": [1, 2, 3], "max_tokens": 1500, "ignore_eos": True}
        many = [pool.submit(s.post, "/v1/completions", long, ALICE) for _ in range(12)]
        check("queue: one tenant fills its part", until(s, lambda: waiting(s) >= 4 or all(m.done() for m in many)))
        status, answer = s.post("/v1/completions", {"prompt": [1, 2, 3], "max_tokens": 2}, BOB)
        check("queue: another one's request is taken", status == 200, answer)
        got = [m.result() for m in many]
        refused = [a for status, a in got if status != 200]
        check("queue: more than its part is refused", refused and all(a["error"]["code"] == "queue_full" for a in refused), got)
        check("queue: with 429", {status for status, _ in got} == {200, 429}, [status for status, _ in got])
        check("queue: at least a part is kept", len(refused) <= 8, len(refused))
    with Server("-m", MODEL, "-c", "4096", "--max-queue", "4", "--max-seqs", "1") as s, concurrent.futures.ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: s.post("/v1/completions", {**long, "max_tokens": 300}), range(4)))
        check("queue: without others it is one's own", [status for status, _ in got] == [200] * 4, got)


def bodies():
    size = 8 << 20
    with tenants() as s, contextlib.ExitStack() as stack:
        sent = []
        for _ in range(24):
            c = stack.enter_context(connect(s))
            with contextlib.suppress(OSError):
                c.sendall(head("/tokenize", size, ALICE) + b" " * (size - 1))
            sent.append(c)
        check("bodies: one tenant has half of the pool", until(s, lambda: n_answered(sent) >= 7), n_answered(sent))
        check("bodies: and has that", n_answered(sent) <= 9, n_answered(sent))
        with connect(s) as c:
            c.sendall(head("/tokenize", size, ALICE))
            with contextlib.suppress(OSError):
                c.sendall(b" " * (size - 1))
            check("bodies: more is 429", first_line(c) == 429)
        status, answer = s.post("/tokenize", {"prompt": "x" * (2 << 20), "add_special": False, "padding": " " * (5 << 20)}, BOB)
        check("bodies: another one's is taken", status in (200, 400), (status, str(answer)[:200]))


def answers():
    text = {"content": "a" * 1200000, "with_pieces": True}
    with tenants() as s, contextlib.ExitStack() as stack:
        status, answer = s.post("/tokenize", {"content": "a" * 7000000, "with_pieces": True, "return_token_strs": True}, ALICE)
        check("answers: a very large one is refused", status == 400 and answer["error"]["code"] == "answer_too_large", str(answer)[:200])
        n = len(json.dumps(text))
        seen = []
        for _ in range(12):
            c = stack.enter_context(connect(s, small=True))
            c.sendall(head("/tokenize", n, ALICE) + json.dumps(text).encode())
            seen.append(first_line(c))
        check("answers: what one does not read is bounded", seen[0] == 200 and 429 in seen, seen)
        status, answer = s.post("/tokenize", {"content": "a" * 500000, "with_pieces": True}, BOB)
        check("answers: another one gets its own", status == 200 and len(answer["tokens"]) > 1000, str(answer)[:200])
        check("answers: small ones are never refused", s.post("/tokenize", {"content": "hello"}, ALICE)[0] == 200)


def turns():
    """A light request is not behind all of another's heavy ones."""
    heavy = json.dumps({"content": "hello world " * 60000}).encode()
    with tenants("--workers", "1") as s, contextlib.ExitStack() as stack:
        waiting_ones = []
        for _ in range(24):
            c = stack.enter_context(connect(s))
            c.sendall(head("/tokenize", len(heavy), ALICE) + heavy)
            waiting_ones.append(c)
        first_line(waiting_ones[0])
        order = []
        light = json.dumps({"content": "hi"}).encode()
        c = stack.enter_context(connect(s))
        c.sendall(head("/tokenize", len(light), BOB) + light)
        threads = [threading.Thread(target=lambda c=c, name=name: (first_line(c), order.append(name)))
                   for name, c in [("light", c)] + [("heavy", w) for w in waiting_ones[1:]]]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        check("turns: a light one passes heavy ones of another", order.index("light") < 12, order)


def scores():
    with tenants("--classes", "p0:-:90%,p1:-:10%") as s:
        status, answer = s.post("/v1/embeddings", {"input": [[1, 2] * 150] * 1024}, ALICE)
        check("scores: tokens of a request", status == 400 and "262144" in answer["error"]["message"], answer)
        status, answer = s.post("/v1/completions", {"prompt": [[1] * 3000] * 10, "echo": True, "logprobs": 20, "max_tokens": 0}, ALICE)
        check("scores: log-probabilities of a request", status == 400 and "logprobs 20" in answer["error"]["message"], answer)
        status, answer = s.post("/v1/completions", {"prompt": [[1, 2]] * 16, "n": 16, "logprobs": 20, "max_tokens": 2000}, ALICE)
        check("logprobs: of answers", status == 400 and "max_tokens" in answer["error"]["message"], answer)
        status, answer = s.post("/v1/embeddings", {"input": "hi"}, {**ALICE, "x-priority": "p7"})
        check("scores: an unknown class", status == 400 and "p7" in answer["error"]["message"], answer)
        many = json.dumps({"input": [list(range(1, 251)) * 8] * 120, "encoding_format": "base64"}).encode()
        c = connect(s)
        c.sendall(head("/v1/embeddings", len(many), ALICE) + many)
        status, answer = s.post("/v1/embeddings", {"input": "hello"}, BOB)
        check("scores: another one's beside them", status == 200, answer)
        c.setblocking(False)
        try:
            early = c.recv(1)
        except BlockingIOError:
            early = None
        check("scores: not behind them", early is None, early)
        status, answer = s.post("/v1/completions", {"prompt": "hi", "max_tokens": 20, "ignore_eos": True}, BOB)
        check("scores: answers beside them", status == 200, answer)
        c.close()
        check("scores: end when the client has gone", until(s, lambda: "quern:kv_blocks_used{model_name=\"qwen3-tied-bf16\"} 0" in s.get("/metrics", BOB)[2]))
        used = [m for m in s.get("/metrics", BOB)[2].split("\n") if m.startswith("quern:class_step_seconds_total")]
        check("scores: are the class's time", any(float(m.rsplit(" ", 1)[1]) > 0 for m in used), used)


def grammars():
    """Ones that are new and take long to compile hold up neither their own caller's other requests nor another's."""
    def body(i):
        patterns = [{"pattern": f"^[ab]*a.{{{n}}}$"} for n in (9, 10)]
        return json.dumps({"messages": [{"role": "user", "content": "a"}], "max_tokens": 1,
                           "guided_json": {"type": "string", "allOf": patterns, "maxLength": 300 + i}})
    with tenants() as s, contextlib.ExitStack() as stack:
        sent = []
        for i in range(8):
            c = stack.enter_context(connect(s))
            c.sendall(head("/v1/chat/completions", len(body(i)), ALICE) + body(i).encode())
            sent.append(c)
        for key in ALICE, BOB:
            status, _ = s.post("/tokenize", {"prompt": "a short one"}, key)
            check("grammars: others do not wait", status == 200 and n_answered(sent) < 8)
        status, _ = s.post("/v1/chat/completions", json.loads(body(99)), BOB)
        check("grammars: nor does another caller's new one", status == 200 and n_answered(sent) < 8)
        got = [first_line(c) for c in sent]
        check("grammars: each is answered", got == [200] * 8, got)


def large_answer():
    """Written by a worker, and the same as in pieces."""
    with Server("-m", MODEL, "-c", "4096") as s:
        ask = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1500, "logprobs": True, "top_logprobs": 3, "ignore_eos": True,
               "temperature": 0, "n": 2}
        status, answer = s.post("/v1/chat/completions", ask)
        check("a large answer", status == 200 and len(answer["choices"][1]["logprobs"]["content"]) == 1500, str(answer)[:300])
        c = connect(s)
        body = json.dumps({**ask, "max_tokens": 3000}).encode()
        c.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        check("it runs", until(s, lambda: json.loads(s.get("/metrics.json")[2])["models"][0]["output_tokens"] > 100))
        c.close()
        check("and ends with its client", until(s, lambda: all(m["running"] + m["waiting"] == 0 for m in json.loads(s.get("/load")[2])["models"])))
        check("the log is whole", s.stop() == 0)


def repeated_text():
    with Server("-m", MODEL, "-c", "4096") as s:
        ask = {"text": "Once upon", "sampling_params": {"max_new_tokens": 3500, "ignore_eos": True, "temperature": 0}}
        status, whole = s.post("/generate", ask)
        _, _, text = s.request("POST", "/generate", {**ask, "stream": True})
        events = [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")]
        check("sglang: the last event has the text", status == 200 and events[-1]["text"] == whole["text"], text[-300:])
        check("sglang: a stream grows with its text", len(text) < 3500 * (4096 * 3 // 2 + 400), len(text))
        check("sglang: and is a stream still", len(events) > 500, len(events))
        n = len(whole["text"].encode())
        check("sglang: the text was long enough to tell", n > 4096, n)


def idle():
    with Server("-m", MODEL, "--max-per-address", "6") as s:
        held = []
        for _ in range(6):
            c = s.connect()
            c.request("GET", "/livez")
            c.getresponse().read()
            held.append(c)
        check("idle: one more is let in", s.get("/livez")[0] == 200)
        check("idle: the longest idle one is closed", held[0].sock.recv(1) == b"")
        held[5].request("GET", "/livez")
        check("idle: the last one not", held[5].getresponse().read() != b"")
    with Server("-m", MODEL, "-c", "4096", "--max-per-address", "3") as s, contextlib.ExitStack() as stack:
        body = json.dumps({"prompt": [1], "max_tokens": 4000, "ignore_eos": True, "stream": True}).encode()
        for _ in range(3):
            c = stack.enter_context(connect(s))
            c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            first_line(c)
        check("idle: not those at work", first_line(stack.enter_context(connect(s))) == 503)


def sizes():
    with Server("-m", MODEL, "-c", "64") as s:
        ask = {"prompt": "hi", "max_tokens": 1}
        check("4,096 keys", s.post("/v1/completions", {**ask, "metadata": {str(i): i for i in range(4096)}})[0] == 200)
        status, answer = s.post("/v1/completions", {**ask, "metadata": {str(i): i for i in range(4097)}})
        check("4,097 keys", status == 400 and "4097 keys" in answer["error"]["message"], answer)
        status, _, text = s.request("POST", "/v1/completions", '{"prompt":"hi","max_tokens":1,"max_tokens":2}')
        check("a key twice", status == 400 and "duplicate" in text, text)
        for path, o in (("/v1/completions", {"prompt": "a" * 1000000}), ("/v1/completions", {"prompt": "a" * 1000000, "add_special_tokens": False}),
                        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a" * 1000000}]}),
                        ("/v1/embeddings", {"input": "a" * 1000000}), ("/generate", {"prompt": "a" * 1000000})):
            status, answer = s.post(path, o)
            check(f"bytes of a prompt: {path}", status == 400 and "in 1000" in answer["error"]["message"]
                  and answer["error"]["code"] == "context_length_exceeded", answer)
        tool = {"type": "function", "function": {"name": "f", "description": "d" * 600000, "parameters": {"type": "object"}}}
        for path, o in (("/v1/chat/completions", {}), ("/api/chat", {"model": "qwen3-tied-bf16"})):
            status, answer = s.post(path, {**o, "messages": [{"role": "user", "content": "x"}], "tools": [tool, tool]})
            check(f"bytes of tools: {path}", status == 400 and "1048576" in str(answer), answer)
        status, answer = s.post("/detokenize", {"tokens": [1] * 300000})
        check("tokens to a text", status == 400 and "262144" in answer["error"]["message"], answer)


def main():
    queue()
    bodies()
    answers()
    turns()
    scores()
    grammars()
    large_answer()
    repeated_text()
    idle()
    sizes()
    finish()


main()
