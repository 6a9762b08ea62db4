#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a running server must survive of the machine: each call of the system failed once, and files of weights that change under it.

fault.so, preloaded (fault.c), fails one call at a time. Survived: before the server is ready, an end with one line and status 1, or
a start all the same; while it serves, the request that was hit is answered, refused or cut off, and the next one has its answer bit for
bit; at the end, status 0. EINTR and short counts may change nothing at all.

usage: test_torture.py QUERN [--full] [PART]   (--full: every call, minutes; else every so many; PART: calls, memory, weights)"""
import errno
import http.client
import json
import mmap
import os
import pathlib
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading

from cli import GOLDEN, QUERN, check, finish, run, skip
from server import Server

MODEL = GOLDEN / "models" / "qwen3-tied-bf16"
SHIM = pathlib.Path(QUERN).with_name("fault.so")
IS_ASAN = b"__asan_init" in pathlib.Path(QUERN).read_bytes()
FULL = "--full" in sys.argv
HANG = 30  # seconds of silence that are taken for a hang
SHORT = -1
GOOD = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0, "ignore_eos": True}
ARGS = ("-m", MODEL, "-c", "256", "-t", "1", "--max-seqs", "4", "--no-prefix-cache", "--speculation", "off")

NAMES = re.findall(r"F\((\w+)\)", re.search(r"#define FUNCTIONS\(F\)(.*?)\n\n", (pathlib.Path(__file__).parent / "fault.c").read_text(), re.S)[1])
IO, ENTER, MAKE = (errno.EIO, errno.EINTR, SHORT), (errno.EINTR, errno.EIO), (errno.EMFILE, errno.ENOMEM)
OUT = (errno.EIO, errno.ENOSPC, errno.EINTR, SHORT)
ERRORS = {
    **dict.fromkeys(("read", "readv", "pread", "recv", "recvfrom"), (*IO, errno.ENOMEM)),
    "recvmsg": IO[:2],
    **dict.fromkeys(("write", "writev", "pwrite", "send", "sendto", "sendmsg"), (*OUT, errno.ENOMEM)),
    "open": (*MAKE, errno.EIO, errno.EINTR),
    **dict.fromkeys(("fopen", "opendir"), (*MAKE, errno.EIO)),
    **dict.fromkeys(("socket", "dup", "pipe2", "epoll_create1", "eventfd", "timerfd_create"), MAKE),
    **dict.fromkeys(("accept", "accept4"), (*MAKE, errno.EINTR, errno.EIO)),
    "close": ENTER,
    **dict.fromkeys(("mmap", "munmap", "madvise", "bind", "listen", "getsockname", "setsockopt", "shutdown", "timerfd_settime"), (errno.ENOMEM,)),
    **dict.fromkeys(("fcntl", "ioctl", "fstat", "stat", "lstat", "unlink", "ftruncate", "fsync", "flock"), (errno.EIO,)),
    "poll": (errno.EINTR, errno.ENOMEM),
    "epoll_ctl": (errno.ENOMEM, errno.ENOSPC),
    "epoll_wait": ENTER,
    "getaddrinfo": (errno.EIO,),
    "getrandom": (errno.EINTR, SHORT),
    "pthread_create": (errno.EAGAIN,),
}
MEMORY = {name: (errno.ENOMEM,) for name in ("malloc", "calloc", "realloc")}


def name_of(error):
    return "short" if error == SHORT else errno.errorcode[error]


class Faults:
    """The page that fault.so shares with us."""

    def __init__(self, folder):
        self.path = os.path.join(folder, "page")
        size = 24 + 8 * len(NAMES)
        with open(self.path, "wb") as f:
            f.write(bytes(size))
        with open(self.path, "r+b") as f:
            self.m = mmap.mmap(f.fileno(), size)
        self.env = {**os.environ, "LD_PRELOAD": str(SHIM), "QN_FAULT": self.path}
        if IS_ASAN:
            self.env["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"

    def reset(self):
        self.m[:] = bytes(len(self.m))

    def arm(self, name, n, error):
        struct.pack_into("iiq", self.m, 8, NAMES.index(name), error, 0)
        struct.pack_into("q", self.m, 0, n)

    def disarm(self):
        """Whether it was hit."""
        struct.pack_into("q", self.m, 0, 0)
        return struct.unpack_from("q", self.m, 16)[0] > 0

    def calls(self):
        return dict(zip(NAMES, struct.unpack_from(f"{len(NAMES)}q", self.m, 24)))


# ---- requests ----

def ask(s, path, body=None):
    """(status, body), (0, "") for no whole answer."""
    c = http.client.HTTPConnection("127.0.0.1", s.port, timeout=HANG)
    try:
        c.request("POST" if body else "GET", path, json.dumps(body) if body else None, {"Content-Type": "application/json"} if body else {})
        r = c.getresponse()
        return r.status, r.read().decode("utf-8", "replace")
    except TimeoutError:
        raise
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        c.close()


def text_of(answer):
    """What is the same each time; None: it was refused, or not whole."""
    status, text = answer
    if status in (0, 503) or (status == 500 and os.strerror(errno.EIO) in text):
        return None
    if text.startswith("data: "):
        pieces = [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")]
        if not text.endswith("data: [DONE]\n\n") or any("error" in p for p in pieces):
            return None
        return status, "".join(c.get("text") or c.get("delta", {}).get("content") or "" for p in pieces for c in p["choices"])
    if text.startswith("{"):
        answer = json.loads(text)
        return status, answer.get("choices") or answer.get("data") or answer.get("tokens") or answer.get("status") or text
    return status, text[:20]


def good_answer(s):
    return text_of(ask(s, "/v1/completions", GOOD))


def leave(s):
    """A stream whose client goes away."""
    data = json.dumps({**GOOD, "stream": True, "max_tokens": 200}).encode()
    try:
        with socket.create_connection(("127.0.0.1", s.port), HANG) as c:
            c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
            c.recv(10)
    except TimeoutError:
        raise
    except OSError:
        pass


def kept(s):
    """Two requests of one connection."""
    c = http.client.HTTPConnection("127.0.0.1", s.port, timeout=HANG)
    try:
        for _ in range(2):
            c.request("GET", "/health")
            c.getresponse().read()
    except TimeoutError:
        raise
    except (OSError, http.client.HTTPException):
        pass
    finally:
        c.close()


def stream_of(s, body, meanwhile):
    """(text, whether it came to its end); meanwhile() is called after the first event."""
    text = ""
    c = http.client.HTTPConnection("127.0.0.1", s.port, timeout=HANG)
    try:
        c.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        for i, line in enumerate(c.getresponse()):
            if i == 0:
                meanwhile()
            if line == b"data: [DONE]\n":
                return text, True
            if line.startswith(b"data: {"):
                text += "".join(c["text"] for c in json.loads(line[6:]).get("choices", []))
    except TimeoutError:
        raise
    except (OSError, http.client.HTTPException):
        pass
    finally:
        c.close()
    return text, False


def half_closed(s):
    """A client that has said all it wants to say."""
    data = json.dumps(GOOD).encode()
    got = b""
    try:
        with socket.create_connection(("127.0.0.1", s.port), HANG) as c:
            c.sendall(b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
            c.shutdown(socket.SHUT_WR)
            while piece := c.recv(65536):
                got += piece
    except TimeoutError:
        raise
    except OSError:
        pass
    head, _, body = got.decode("utf-8", "replace").partition("\r\n\r\n")
    m = re.search(r"Content-Length: (\d+)", head)
    return (int(head[9:12]), body) if m and int(m[1]) == len(got) - got.find(b"\r\n\r\n") - 4 else (0, "")


CHAT = {"messages": [{"role": "user", "content": "hello there"}], "max_tokens": 6, "temperature": 0}
SCRIPT = {
    "a completion": lambda s: ask(s, "/v1/completions", GOOD),
    "a chat, streamed": lambda s: ask(s, "/v1/chat/completions", {**CHAT, "stream": True}),
    "embeddings": lambda s: ask(s, "/v1/embeddings", {"input": ["hello", "there"]}),
    "tokens": lambda s: ask(s, "/tokenize", {"prompt": "hello"}),
    "metrics": lambda s: ask(s, "/metrics"),
    "half closed": half_closed,
    "left": leave,
    "kept": kept,
}


# ---- calls that fail ----

class Tally:
    def __init__(self, what):
        self.what, self.n, self.n_bad, self.n_same = what, 0, 0, 0

    def note(self, where, fault, problem, is_same=False):
        self.n += 1
        self.n_same += is_same and not problem
        self.n_bad += bool(problem)
        check(f"{self.what}: {where}: {fault}", not problem, problem)

    def tell(self):
        print(f"A5: {self.what}: {self.n} faults, {self.n - self.n_bad} survived, {self.n_same} of them without any effect", flush=True)


def start(f, name=None, n=0, error=0):
    """A server with a fault from the beginning on: (server, None), or (None, what is wrong with its end or "")."""
    f.reset()
    if name:
        f.arm(name, n, error)
    try:
        return Server(*ARGS, env=f.env), None
    except AssertionError as e:
        m = re.match(r"ended with (-?\d+) before '.*?': (.*)", str(e), re.S)
        lines = [line for line in m[2].split("\n") if line.startswith("quern: ")]
        return None, "" if m[1] == "1" and len(lines) == 1 else str(e)


def end(s):
    try:
        code = s.stop(wait=HANG)
    except subprocess.TimeoutExpired:
        s.p.kill()
        return "does not end"
    return f"ended with {code}: {s.log[-5:]}" if code else ""


def of_start(f, errors, counts, stride, want):
    t, i = Tally("start"), 0
    for name, all_errors in errors.items():
        for error in all_errors:
            for n in range(1, counts[name] + 1):
                i += 1
                if i % stride:
                    continue
                what = f"{name} {n} of {counts[name]}: {name_of(error)}"
                s, problem = start(f, name, n, error)
                if s:
                    f.disarm()
                    try:
                        problem = "" if good_answer(s) == want else "another answer"
                    except TimeoutError:
                        problem = "hangs"
                    problem = end(s) or problem
                elif not problem and error in (errno.EINTR, SHORT):
                    problem = "did not start"
                t.note("start", what, problem, s is not None)
    t.tell()


def of_requests(f, errors, stride):
    t, i, s = Tally("requests"), 0, None
    for where, do in SCRIPT.items():
        if not s:
            s, _ = start(f)
        want, want_text = good_answer(s), text_of(do(s)) if do not in (leave, kept) else None
        before = f.calls()
        do(s)
        good_answer(s)  # what comes late, as the end of a connection, counts too
        counts = {name: n - before[name] for name, n in f.calls().items()}
        for name, all_errors in errors.items():
            for error in all_errors:
                for n in range(1, counts[name] + 1):
                    i += 1
                    if i % stride:
                        continue
                    what = f"{name} {n} of {counts[name]}: {name_of(error)}"
                    if not s:
                        s, _ = start(f)
                    f.arm(name, n, error)
                    problem, same = "", True
                    try:
                        got = do(s)
                        got = text_of(got) if got else None
                        same = got == want_text
                        if got is not None and not same:
                            problem = f"answered {got}, want {want_text}"
                        if not f.disarm():  # not hit, or by the next
                            f.arm(name, 1, error)
                            good_answer(s)
                        f.disarm()
                        if not same and error in (errno.EINTR, SHORT):
                            problem = problem or "was not answered"
                        have = good_answer(s)
                        if have != want:
                            problem = problem or f"the next: {have}"
                    except TimeoutError:
                        problem = "hangs"
                    if s.p.poll() is not None:
                        problem = f"ended with {s.p.returncode}: {s.log[-5:]}"
                    t.note(where, what, problem, same)
                    if problem:
                        end(s)
                        s = None
    if s:
        problem = end(s)
        check("the end after all these", not problem, problem)
    t.tell()


def of_end(f, errors, stride):
    t, i = Tally("the end"), 0
    s, _ = start(f)
    good_answer(s)
    before = f.calls()
    end(s)
    counts = {name: n - before[name] for name, n in f.calls().items()}
    for name, all_errors in errors.items():
        for error in all_errors:
            for n in range(1, counts[name] + 1):
                i += 1
                if i % stride:
                    continue
                s, _ = start(f)
                good_answer(s)
                f.arm(name, n, error)
                t.note("the end", f"{name} {n} of {counts[name]}: {name_of(error)}", end(s), True)
    t.tell()


def fail_all(errors, strides):
    with tempfile.TemporaryDirectory() as folder:
        f = Faults(folder)
        s, problem = start(f)
        if not check("fault.so is there and does no harm", s is not None, problem):
            return
        counts, want = f.calls(), good_answer(s)
        check("it counts", counts["open"] > 10 and counts["epoll_ctl"] > 0, counts)
        end(s)
        of_requests(f, errors, strides[1])
        of_end(f, errors, strides[2])
        of_start(f, errors, counts, strides[0], want)


def calls():
    fail_all(ERRORS, (1, 1, 1) if FULL else (23, 23, 7))


def memory():
    if IS_ASAN:
        skip("memory", "a sanitizer does not outlive failures of its own; see test_server_oom")
        return
    fail_all(MEMORY, (1, 1, 1) if FULL else (199, 31, 7))


# ---- weights that change under the server ----

def zeros(path):
    with open(path, "r+b") as f:
        f.write(bytes(os.path.getsize(path)))


def resized(share):
    return lambda path: os.truncate(path, int(os.path.getsize(path) * share))


def overwritten(path):
    """As cp does it: cut to nothing, then written again, with other bytes."""
    n = os.path.getsize(path)
    with open(path, "wb") as f:
        f.write(os.urandom(n))


def one_byte(path):
    with open(path, "r+b") as f:
        f.seek(-1, os.SEEK_END)
        last = f.read(1)[0]
        f.seek(-1, os.SEEK_END)
        f.write(bytes([last ^ 0x40]))


def replaced(path):
    with open(path + ".new", "wb") as f:
        f.write(os.urandom(os.path.getsize(path)))
    os.rename(path + ".new", path)


CHANGES = {"cut to nothing": resized(0), "cut to a half": resized(0.5), "a byte longer": resized(1.0001), "all zeros": zeros,
           "overwritten": overwritten, "one byte": one_byte, "replaced": replaced, "removed": os.unlink}
FREE = ("replaced", "removed")  # what is open stays what it was


def ways(folder):
    """What of a model stays in its file: (name, arguments, the file), each with a copy of its own."""
    def copy(name):
        to = os.path.join(folder, "copy-" + os.path.basename(name))
        shutil.rmtree(to, ignore_errors=True)
        if os.path.isdir(name):
            shutil.copytree(name, to)
            return to
        shutil.copy(name, to)
        return to

    def pack(name):
        out = os.path.join(folder, os.path.basename(name) + ".qpk")
        code, _, err = run("pack", GOLDEN / name, out)
        check(f"{name} is packed", code == 0, err)
        return out

    mapped, experts = pack("models/qwen2-tied-f16"), pack("models/qwen3moe")
    need = run("run", "-m", experts, "--mem", "1K", "-c", "256", "-n", "1", "a")[2]
    need = float(re.search(r"want ([\d.]+) GB", need)[1]) if "want" in need else 0
    return [
        ("as they lie in a folder", lambda: copy(GOLDEN / "models/qwen3-tied-bf16"), "model.safetensors", ()),
        ("packed", lambda: copy(mapped), "", ()),
        ("rows looked up", lambda: copy(GOLDEN / "gguf/qwen3.gguf"), "", ()),
        ("mapped", lambda: copy(mapped), "", ("--mmap",)),
        ("experts on disk", lambda: copy(experts), "", ("--mem", str(int((need + 0.01) * 1e9)))),
    ]


def weights():
    n = n_none = n_ended = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, copy, inside, more in ways(folder):
            path = copy()
            for change, do in CHANGES.items():
                path = copy()
                what = f"{name}: {change}"
                with Server("-m", path, "-c", "512", "-t", "1", "--no-prefix-cache", "--speculation", "off", *more) as s:
                    want = good_answer(s)
                    long = {**GOOD, "max_tokens": 200, "stream": True}
                    want_long = text_of(ask(s, "/v1/completions", long))[1]
                    got = []
                    t = threading.Thread(target=lambda: got.append(stream_of(s, long, lambda: do(os.path.join(path, inside) if inside else path))))
                    t.start()
                    t.join()
                    have, is_whole = got[0]
                    after = [good_answer(s) for _ in range(2)]
                    is_over = not is_whole or None in after
                    code = s.p.wait(HANG) if is_over else s.stop()
                    for r in s.threads:
                        r.join()
                    said = [line for line in s.log if line.startswith("quern: ")]
                    n += 1
                    n_none += not is_over
                    n_ended += is_over
                    check(f"{what}: no wrong text", want_long.startswith(have) and all(a in (None, want) for a in after), (have, want_long, after, want))
                    check(f"{what}: no effect, or 74 and a line",
                          (code == 74 and len(said) == 1 and str(path) in said[0] and change not in FREE) if is_over else code == 0, (code, s.log[-3:]))
    print(f"A13: {n} changes of files in use: {n_none} without effect, {n_ended} ended with 74, 0 wrong answers" if n else "")


PARTS = (calls, memory, weights)

if __name__ == "__main__":
    if not SHIM.is_file():
        skip("torture", f"no {SHIM.name} beside {QUERN}")
        finish()
    wanted = [a for a in sys.argv[2:] if not a.startswith("--")]
    for part in PARTS:
        if not wanted or part.__name__ in wanted:
            part()
    finish()
