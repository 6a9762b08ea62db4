#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a server must survive: cut streams, stops, kills, overload, curious tenants, bad requests, all of it at once; the same good answer
after each.

usage: test_endurance.py QUERN [--full] [PART]   (--full: the numbers of a release, more than an hour; PART: cuts, stops, kills,
    overload, tenants, bad, soak)"""
import concurrent.futures
import http.client
import json
import os
import pathlib
import random
import signal
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time

import bad_requests
from cli import GOLDEN, QUERN, check, finish, skip
from server import Server

MODEL = GOLDEN / "models" / "qwen3-tied-bf16"
IS_ASAN = b"__asan_init" in pathlib.Path(QUERN).read_bytes()
FULL = "--full" in sys.argv
HANG = 30  # seconds of silence that are taken for a hang
GOOD = {"prompt": "Once upon a time there was a little", "max_tokens": 24, "temperature": 0, "ignore_eos": True}
SEED = random.SystemRandom().randrange(1 << 32)
rng = random.Random(SEED)


def ids(n, seed):
    r = random.Random(seed)
    return [r.randrange(480) for _ in range(n)]


def number(s, name):
    """The sum of a metric's samples."""
    lines = [line for line in s.get("/metrics")[2].split("\n") if line.startswith(name + "{")]
    if not lines:
        raise AssertionError(f"no {name} in /metrics")
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def good_answer(s):
    status, answer = s.post("/v1/completions", GOOD)
    return (status, answer["choices"][0]["text"], answer["usage"]["completion_tokens"]) if status == 200 else (status, answer)


def settled(s):
    """Polls until nothing runs; how many looks it took, None: never."""
    for i in range(20000):
        if number(s, "vllm:num_requests_running") + number(s, "vllm:num_requests_waiting") + number(s, "quern:kv_blocks_used") == 0:
            return i
    return None


def open_stream(s, body, headers=None):
    """The connection of a request that was just sent; silence on it raises TimeoutError."""
    c = socket.create_connection(("127.0.0.1", s.port))
    c.settimeout(HANG)
    data = json.dumps({"temperature": 0, "ignore_eos": True, "stream": True, **body}).encode()
    more = "".join(f"{k}: {v}\r\n" for k, v in (headers or {}).items())
    c.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return c


def cut(c, is_reset):
    if is_reset:
        c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    else:
        c.setblocking(False)
        try:
            while c.recv(1 << 16):  # what is unread would turn the FIN into an RST
                pass
        except BlockingIOError:
            pass
        except ConnectionResetError:
            pass
    c.close()


# ---- streams cut at random points ----

def cuts():
    n, most = 10000 if FULL else 200, 3000
    with Server("-m", MODEL, "-c", "4096", "--speculation", "off", "-q") as s:
        want = good_answer(s)
        steps = []
        for i in range(4):  # one at a time: how many steps it lives on
            c = open_stream(s, {"prompt": ids(20, i), "max_tokens": most})
            c.recv(rng.randrange(1, 4000))
            before = number(s, "quern:steps_total")
            cut(c, i % 2 == 0)
            check("one that was cut gives all back", settled(s) is not None)
            steps.append(int(number(s, "quern:steps_total") - before))
        made = number(s, "quern:engine_output_tokens_total")

        def one(i):
            r = random.Random(SEED + i)
            is_stream = r.random() < 0.8
            c = open_stream(s, {"prompt": ids(r.choice((1, 20, 700)), i), "max_tokens": most, "n": r.choice((1, 1, 3)),
                "stream": is_stream})
            left = r.choice((0, 1, 100, 1000, 20000)) if is_stream else 0
            while left > 0:
                got = len(c.recv(min(left, 4096)))
                left = left - got if got else 0
            cut(c, i % 2 == 0)

        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            list(pool.map(one, range(n)))
        looks = settled(s)
        made = number(s, "quern:engine_output_tokens_total") - made
        check("cut streams give all blocks back", looks is not None, number(s, "quern:kv_blocks_used"))
        check("none ran to its end", made < n * most / 4, (made, n * most))
        check("the same answer after them", good_answer(s) == want)
        check("and the end is clean", s.stop() == 0, s.log[-3:])
        print(f"A8: {n} streams cut, {made / n:.0f} of {most} tokens each, 0 blocks held; alone, steps from cut to free: {steps}")


# ---- SIGTERM under load ----

def is_serving(s):
    try:
        return s.get("/ready")[0] == 200
    except (ConnectionError, http.client.HTTPException):
        return False


def stops():
    n, n_clients, n_tokens = 100 if FULL else 6, 8, 120
    begun = refused = 0
    for k in range(n):
        with Server("-m", MODEL, "-c", "512", "--max-seqs", "4", "-q") as s:
            if k == 0:
                want = good_answer(s)
            pieces = threading.Semaphore(0)

            def client(i):
                """Asks until the server is gone. [(status, is whole)]; status 0: no answer began."""
                seen = []
                while True:
                    body = b""
                    try:
                        c = http.client.HTTPConnection("127.0.0.1", s.port, timeout=HANG)
                        c.request("POST", "/v1/completions", json.dumps(
                            {"prompt": ids(10 + i, i), "max_tokens": n_tokens, "temperature": 0, "ignore_eos": True, "stream": True,
                             "stream_options": {"include_usage": True}}), {"Content-Type": "application/json"})
                        r = c.getresponse()
                    except (ConnectionError, http.client.HTTPException):
                        return seen + [(0, True, b"")]
                    try:
                        for line in r:
                            body += line
                            pieces.release()
                        is_whole = r.status != 200 or (b"data: [DONE]" in body and b'"completion_tokens":%d,' % n_tokens in body)
                        seen.append((r.status, is_whole, body[-200:]))
                    except (ConnectionError, http.client.HTTPException) as e:
                        seen.append((r.status, False, repr(e).encode() + body[-200:]))
                    if r.status != 200:
                        return seen

            with concurrent.futures.ThreadPoolExecutor(n_clients) as pool:
                clients = [pool.submit(client, i) for i in range(n_clients)]
                for _ in range(rng.randrange(1, 1500)):
                    pieces.acquire()
                s.p.send_signal(signal.SIGTERM)
                got = [x for c in clients for x in c.result()]
            cut_ones = [g for g in got if not g[1]]
            check("no answer is cut by SIGTERM", not cut_ones, (SEED, k, cut_ones[:2]))
            check("what is refused is 503", all(g[0] in (0, 200, 503) for g in got), [g[0] for g in got])
            check("exit status 0", s.stop() == 0, s.log[-3:])
            begun += sum(g[0] == 200 for g in got)
            refused += sum(g[0] != 200 for g in got)
    with Server("-m", MODEL, "-c", "4096", "--max-seqs", "4", "-q") as s:
        check("the same answer from the last", good_answer(s) == want)
        streams = [open_stream(s, {"prompt": ids(20, i), "max_tokens": 4000}) for i in range(8)]
        streams[0].recv(1)
        s.p.send_signal(signal.SIGTERM)
        while is_serving(s):  # two pending ones would be one
            pass
        s.p.send_signal(signal.SIGTERM)
        code = s.stop()
        texts = []
        for c in streams:
            text = b""
            try:
                while piece := c.recv(1 << 16):
                    text += piece
            except ConnectionResetError:
                pass
            texts.append(text)
        check("twice: ends with 0", code == 0, s.log[-3:])
        n_whole = sum(b'"length"' in t for t in texts)
        print(f"a second stop: {n_whole} of {len(texts)} answers were whole by then")
    print(f"A10: {n} stops under load, {begun} answers whole, {refused} refused, exit 0 each")


# ---- kill -9 ----

def kills():
    n = 1000 if FULL else 10
    want = None
    for k in range(n):
        with Server("-m", MODEL, "-c", "2048", "-q") as s:
            if want is None:
                want = good_answer(s)
            check("a good answer after each kill", good_answer(s) == want, (SEED, k))
            streams = [open_stream(s, {"prompt": ids(20 + 100 * (i % 3), i), "max_tokens": 1500}) for i in range(6)]
            for _ in range(rng.randrange(1, 40)):
                rng.choice(streams).recv(rng.randrange(1, 4096))
            code = s.stop(signal.SIGKILL)
            check("killed", code == -signal.SIGKILL, code)
            for c in streams:
                c.close()
    with Server("-m", MODEL, "-c", "2048", "-q") as s:
        check("a good answer after the last kill", good_answer(s) == want)
    print(f"A6: {n} kills under load, the same answer after each")


# ---- many more clients than places ----

def p99(seconds):
    return sorted(seconds)[int(0.99 * (len(seconds) - 1))]


def overload():
    """As many clients as there are places; then requests at ten times the rate that those were answered at; then a lone one."""
    places = 2 + 8 // 2  # one caller gets half of the queue (docs/operate.md, Limits)
    n_tokens = 300 if FULL else 40
    with Server("-m", MODEL, "-c", "512", "--max-seqs", "2", "--max-queue", "8", "-q") as s:
        want = good_answer(s)

        def ask(k):
            """(status, is_good, seconds, what was got)"""
            begin = time.monotonic()
            status, headers, text = s.request("POST", "/v1/completions", {"prompt": ids(20, k), "max_tokens": n_tokens, "temperature": 0,
                                                                          "ignore_eos": True, "stream": k % 2 == 1})
            seconds = time.monotonic() - begin
            if status == 200:
                is_good = "[DONE]" in text if k % 2 else json.loads(text)["usage"]["completion_tokens"] == n_tokens
            else:
                is_good = status in (429, 503) and headers.get("retry-after", "").isdigit() and "error" in json.loads(text)
            return status, is_good, seconds, (headers, text[:200])

        def lone():
            begin = time.monotonic()
            check("a lone one is answered", good_answer(s) == want)
            return time.monotonic() - begin

        def crowd(n_clients, seconds, per_second):
            """Each client sends at its times, evenly spaced over all of them; per_second None: as soon as it has its answer."""
            begin = time.monotonic()

            def client(i):
                seen, k = [], i
                while (now := time.monotonic() - begin) < seconds:
                    if per_second and now < k / per_second:
                        time.sleep(k / per_second - now)
                    seen.append(ask(k))
                    k += n_clients
                return seen

            with concurrent.futures.ThreadPoolExecutor(n_clients) as pool:
                got = [x for c in pool.map(client, range(n_clients)) for x in c]
            return got, time.monotonic() - begin

        alone = statistics.median(lone() for _ in range(20))
        base, took = crowd(places, 60 if FULL else 2, None)
        check("all places taken, none is refused", all(g[0] == 200 and g[1] for g in base), [g for g in base if g[0] != 200][:2])
        rate = len(base) / took
        got, took = crowd(100 if FULL else 40, 600 if FULL else 4, 10 * rate)
        ended = time.monotonic()
        while lone() > 1.5 * alone and FULL and time.monotonic() - ended < 60:
            pass
        normal = time.monotonic() - ended
        bad = [g for g in got if not g[1]]
        count = {c: sum(g[0] == c for g in got) for c in sorted({g[0] for g in got})}
        check("every request got 200, or 429 or 503 with Retry-After", not bad, bad[:2])
        check("there was an overload", count.get(200, 0) > 0 and len(got) > count[200], count)
        ratio = p99([g[2] for g in got if g[0] == 200]) / p99([g[2] for g in base])
        if FULL:
            check("accepted ones take at most 1.5 times as long as with all places taken", ratio <= 1.5, ratio)
            check("2 s later all is as before", normal <= 2, normal)
        check("and nothing is held", settled(s) is not None)
        check("clean end", s.stop() == 0, s.log[-3:])
        print(f"A9: {rate:.1f} requests/s answered with {places} places taken; {len(got)} at {len(got) / took:.1f}/s for {took:.0f} s: {count}; "
              f"p99 of accepted ones {ratio:.2f} times that before; a lone one as before after {normal:.2f} s")


# ---- what one tenant can learn of another ----

def first_token(s, prompt, key):
    """(seconds to the first event, cached tokens)"""
    begin = time.monotonic()
    c = open_stream(s, {"prompt": prompt, "max_tokens": 1, "stream_options": {"include_usage": True}}, {"x-api-key": key})
    text = b""
    first = 0
    while piece := c.recv(1 << 16):
        text += piece
        if not first and b"data: " in text:
            first = time.monotonic() - begin
    c.close()
    events = [json.loads(line[6:]) for line in text.split(b"\n") if line.startswith(b"data: {")]
    return first, events[-1]["usage"]["prompt_tokens_details"]["cached_tokens"]


def tenants():
    n = 200 if FULL else 5
    with tempfile.NamedTemporaryFile("w") as f:
        f.write("secret-a alice\nsecret-b bob\n")
        f.flush()
        with Server("-m", MODEL, "-c", "4096", "--api-key-file", f.name, "-q") as s:
            cold, other, own = [], [], []
            for i in range(n):
                prompt = ids(2000, 2 * i)
                first = first_token(s, prompt, "secret-a")
                kinds = [("other", prompt, "secret-b"), ("cold", ids(2000, 2 * i + 1), "secret-b")]
                for kind, p, key in kinds if i % 2 else kinds[::-1]:
                    seconds, cached = first_token(s, p, key)
                    (other if kind == "other" else cold).append(seconds)
                    check(f"{kind}: nothing of it is there", cached == 0, cached)
                seconds, cached = first_token(s, prompt, "secret-a")
                own.append(seconds)
                check("a first time", first[1] == 0, first)
                check("one's own second time", cached > 1900, cached)
            ratio = statistics.median(other) / statistics.median(cold)
            if FULL:
                check("another's prompt takes the time of a new one", 0.95 <= ratio <= 1.05, ratio)
            print(f"A12: {n} probes: time to first token of another's prompt / of a new one {ratio:.3f}, "
                  f"of one's own / of a new one {statistics.median(own) / statistics.median(cold):.3f}")


# ---- bad requests ----

def converse(s, data):
    """All that the server says to the bytes; None: it hung."""
    with socket.create_connection(("127.0.0.1", s.port)) as c:
        c.settimeout(HANG)
        got = b""
        try:
            c.sendall(data)
            c.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError, OSError):
            pass
        try:
            while piece := c.recv(1 << 16):
                got += piece
        except ConnectionResetError:
            pass
        except TimeoutError:
            return None
        return got


def statuses(got):
    """Of every answer on the connection. 100 only asks whether a half-closed client is still there."""
    lines = [line for line in got.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    return [int(line[9:12]) for line in lines if not line.startswith(b"HTTP/1.1 100 ")]


def resident(s):
    with open(f"/proc/{s.p.pid}/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def n_of(s, what):
    try:
        return len(os.listdir(f"/proc/{s.p.pid}/{what}"))
    except PermissionError:  # the sandbox shows descriptors to root only
        return int(next(line for line in s.get("/metrics")[2].splitlines() if line.startswith("process_open_fds ")).split()[1])


def bad():
    with Server("-m", MODEL, "-c", "1024", "-q") as s:
        want = good_answer(s)
        files, threads = n_of(s, "fd"), n_of(s, "task")
        n = 0
        memory = 0
        for turn in range(2):
            for group, cases in bad_requests.groups():
                for name, data, allowed in cases:
                    got = converse(s, data)
                    n += 1
                    if not check(f"{group}: {name}: an answer", got is not None, data[:300]):
                        continue
                    codes = statuses(got)
                    is_good = allowed(codes, got)
                    check(f"{group}: {name}", is_good, (codes, data[:400], got[:300]))
                check(f"{group}: the same answer after", good_answer(s) == want)
            if turn == 0:
                memory = resident(s)
        for _ in range(20000):
            if n_of(s, "fd") <= files:
                break
            s.get("/health")
        check("descriptors are back", n_of(s, "fd") <= files, (files, n_of(s, "fd")))
        check("threads are back", n_of(s, "task") == threads, (threads, n_of(s, "task")))
        grown = resident(s) - memory
        if IS_ASAN:
            skip("memory does not grow", "the address sanitizer keeps what was freed")
        else:
            check("memory does not grow", grown <= 64 << 20, grown)
        check("nothing is held", settled(s) is not None)
        check("clean end", s.stop() == 0, s.log[-3:])
        print(f"A2: {n} bad requests ({n // 2} kinds), second pass {grown / (1 << 20):+.1f} MiB")


# ---- everything at once, for long ----

def asked(r):
    """(path, body, whether it is to be refused)"""
    text = " ".join(r.choice(("once", "upon", "a", "time", "there", "was", "little")) for _ in range(r.choice((3, 40, 200))))
    few = r.choice((4, 16, 64))
    common = {"temperature": r.choice((0, 1)), "stream": r.random() < 0.5}
    messages = [{"role": "user", "content": text}]
    return r.choice((
        ("/v1/completions", {"prompt": ids(r.choice((3, 40, 600)), r.random()), "max_tokens": few, "priority": r.choice(("p0", "p1", "p2")), **common}, False),
        ("/v1/completions", {"prompt": text, "max_tokens": few, "n": 3, **common}, False),
        ("/v1/completions", {"prompt": text, "max_tokens": few, "logprobs": 3, "stop": ["zz"], **common}, False),
        ("/v1/chat/completions", {"messages": messages, "max_tokens": few, **common}, False),
        ("/v1/responses", {"input": text, "max_output_tokens": few, **common}, False),
        ("/v1/messages", {"messages": messages, "max_tokens": few, **common}, False),
        ("/api/chat", {"model": "soak", "messages": messages, "options": {"num_predict": few}, **common}, False),
        ("/generate", {"prompt": text, "max_new_tokens": few, **common}, False),
        ("/v1/embeddings", {"input": [text, text[:9]]}, False),
        ("/tokenize", {"content": text}, False),
        ("/v1/completions", {"prompt": 5, "max_tokens": -1}, True),
        ("/v1/chat/completions", {"messages": "none"}, True),
        ("/nowhere", {}, True)))


def soak():
    seconds, turns = (1800, 12) if FULL else (4, 2)
    with Server("-m", f"soak={MODEL}", "-c", "1024", "--max-seqs", "8", "--kv-blocks", "40", "--classes", "p0:2s:40%,p1:-:40%,p2:-:20%", "-q") as s:
        want = good_answer(s)
        counts = {"whole": 0, "left": 0, "busy": 0, "refused": 0, "odd": 0}
        odd, health = [], []
        lock = threading.Lock()

        def client(seed, end):
            r = random.Random(seed)
            while time.monotonic() < end:
                path, body, is_refused = asked(r)
                kind, what = "odd", None
                try:
                    if body.get("stream") and r.random() < 0.3:
                        data = json.dumps({"ignore_eos": True, **body}).encode()
                        with socket.create_connection(("127.0.0.1", s.port)) as c:
                            c.settimeout(HANG)
                            c.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
                            c.recv(r.randrange(1, 4000))
                            cut(c, r.random() < 0.5)
                        kind = "left"
                    else:
                        status, headers, text = s.request("POST", path, body)
                        what = (status, path, body, text[-300:])
                        if status in (429, 503) and "retry-after" in headers:
                            kind = "busy"
                        elif is_refused:
                            kind = "refused" if status in (400, 404) else "odd"
                        elif status == 200 and not any(w in text for w in ('"error":{', '"error":"', "event: error")):
                            kind = "whole"
                except OSError as e:
                    what = (path, body, repr(e))
                with lock:
                    counts[kind] += 1
                    if kind == "odd":
                        odd.append(what)

        def watch(end):
            while time.monotonic() < end:
                begin = time.monotonic()
                check("/health", s.get("/health")[0] == 200)
                health.append(time.monotonic() - begin)
                time.sleep(0.2)

        looks = []
        for turn in range(turns):  # between them nobody is there
            end = time.monotonic() + seconds / turns
            with concurrent.futures.ThreadPoolExecutor(11) as pool:
                of = [pool.submit(client, SEED + 100 * turn + i, end) for i in range(10)] + [pool.submit(watch, end)]
                for f in of:
                    f.result()
            check("nothing is held", settled(s) is not None)
            check("the same answer as at the beginning", good_answer(s) == want)
            looks.append((resident(s), n_of(s, "fd"), n_of(s, "task")))
        check("every answer was one of those that are right", not odd, odd[:3])
        check("each kind came", all(counts[k] for k in ("whole", "left", "refused")), counts)
        check("descriptors are back", looks[-1][1] <= looks[0][1] + 2, looks)
        check("threads are back", looks[-1][2] == looks[0][2], looks)
        if IS_ASAN:
            skip("memory does not grow", "the address sanitizer keeps what was freed")
        elif FULL:
            check("memory does not grow", looks[-1][0] - looks[1][0] <= 16 << 20, looks)
        check("clean end", s.stop() == 0, s.log[-3:])
        print(f"soak: {seconds} s, {counts}; resident {', '.join(f'{x[0] / (1 << 20):.1f}' for x in looks)} MiB; "
              f"descriptors {looks[0][1]} .. {looks[-1][1]}; /health p99 {1e3 * p99(health):.1f} ms, at most {1e3 * max(health):.1f} ms")


def main():
    parts = [a for a in sys.argv[2:] if a != "--full"]
    print(f"seed {SEED}")
    for part in (cuts, stops, kills, overload, tenants, bad, soak):
        if not parts or part.__name__ in parts:
            begin = time.monotonic()
            part()
            print(f"  {part.__name__}: {time.monotonic() - begin:.1f} s", flush=True)
    finish()


main()
