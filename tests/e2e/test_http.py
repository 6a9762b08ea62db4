# SPDX-License-Identifier: Apache-2.0
"""The server as hostile, slow, vanishing and ordinary clients meet it: raw sockets against `quern serve`."""
import concurrent.futures
import json
import os
import pathlib
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import tempfile

from cli import GOLDEN, QUERN, check, finish, skip

MODEL = GOLDEN / "models" / "qwen3-tied-bf16"
HOST = b"Host: localhost\r\n"
CLOSE = b"Connection: close\r\n"


class Server:
    def __init__(self, *args, host="127.0.0.1"):
        self.process = subprocess.Popen([QUERN, "serve", "-m", str(MODEL), "--port", "0", "--host", host, *args],
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.where = host[5:] if host.startswith("unix:") else None
        for line in self.process.stdout:
            text = line.decode()
            if text.startswith("listening on ") and not self.where:
                self.port = int(text.rsplit(":", 1)[1])
            if text.startswith("ready"):
                break

    def connect(self, small=False):
        s = socket.socket(socket.AF_UNIX if self.where else socket.AF_INET)
        if small:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        s.connect(self.where if self.where else ("127.0.0.1", self.port))
        return s

    def raw(self, data, is_all=False):
        """What the server says until it closes; is_all: it is told that no more will come."""
        with self.connect() as s:
            try:
                s.sendall(data)
            except (BrokenPipeError, ConnectionResetError):
                pass  # refused before all of it was sent
            if is_all:
                s.shutdown(socket.SHUT_WR)
            return rest(s)

    def get(self, path, extra=b""):
        got = self.raw(b"GET " + path.encode() + b" HTTP/1.1\r\n" + HOST + CLOSE + extra + b"\r\n")
        return status(got), body(got)

    def post(self, path, o, extra=b""):
        got = self.raw(request(path, o, CLOSE + extra))
        return status(got), body(got)

    def load(self):
        return json.loads(self.get("/load")[1])

    def n_ended(self, reason):
        """Requests of the engine that ended so."""
        lines = self.get("/metrics")[1].decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines
                   if line.startswith("vllm:request_success_total{") and f'"{reason}"' in line)

    def n_open(self):
        try:
            return len(os.listdir(f"/proc/{self.process.pid}/fd"))
        except PermissionError:  # the sandbox shows it to root only
            lines = self.get("/metrics")[1].decode().splitlines()
            return int(next(line for line in lines if line.startswith("process_open_fds ")).split()[1])

    def until(self, name, is_so):
        """Asks /health between looks, so that the server had its turn each time."""
        for _ in range(20000):
            if is_so():
                return check(name, True)
            self.get("/health")
        return check(name, False, "never came to be")

    def stop(self, name):
        self.process.send_signal(signal.SIGTERM)
        self.process.stdout.read()
        check(f"{name}: ends by itself", self.process.wait() == 0, self.process.returncode)


def rest(s):
    got = b""
    try:
        while True:
            piece = s.recv(65536)
            if not piece:
                return got
            got += piece
    except ConnectionResetError:
        return got


def until(s, what):
    got = b""
    while what not in got:
        piece = s.recv(65536)
        if not piece:
            break
        got += piece
    return got


def status(got):
    return int(got[9:12]) if got.startswith(b"HTTP/1.1 ") else 0


def body(got):
    return got.partition(b"\r\n\r\n")[2]


def request(path, o, extra=b"", version=b"1.1"):
    data = json.dumps(o).encode()
    return (b"POST " + path.encode() + b" HTTP/" + version + b"\r\n" + HOST + extra
            + b"Content-Length: %d\r\n\r\n" % len(data) + data)


def long_one(n, stream=True):
    return {"prompt": "Once upon a time", "max_tokens": n, "ignore_eos": True, "temperature": 0, "stream": stream}


MALFORMED = [
    (b"\r\n\r\n\r\n", 400),
    (b"GET\r\n\r\n", 400),
    (b"GET /\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
    (b"GET /health HTTP/1.1\nHost: localhost\n\n", 400),
    (b"GET /health HTTP/1.1\r\n" + HOST + b"A: b\r\n folded\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\n" + HOST + b"A : b\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\n" + HOST + b"A: \0\r\n\r\n", 400),
    (b"GET /he\0alth HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET /health HTTP/2.0\r\n\r\n", 505),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    (b"BREW /health HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    (b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    (b"GET /health HTTP/1.1\r\n" + HOST + b"A: " + b"a" * 100000 + b"\r\n\r\n", 431),
    (b"GET /health HTTP/1.1\r\n" + HOST + b"a: b\r\n" * 101 + b"\r\n", 431),
    (b"GET /health HTTP/1.1\r\n" + HOST + b"Expect: cake\r\n\r\n", 417),
    (b"POST /generate HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999\r\n\r\n", 413),
    (b"POST /generate HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n", 400),
    (b"POST /generate HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip\r\n\r\n", 501),
    (b"POST /generate HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n7fffffff\r\n", 413),
    (b"POST /generate HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", 400),
    (b"POST /generate HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 5000, 400),
    (b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03", 400),
    (bytes(range(256)) * 8, 400),
]

SECOND = b"GET /version HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n"
SMUGGLED = [
    b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
    b"Content-Length: 0, 5\r\n\r\n",
    b"Content-Length: +0\r\n\r\n",
    b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
    b" Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n0\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n0 \r\n\r\n",
]


def test_malformed(server):
    for data, want in MALFORMED:
        got = server.raw(data)
        check(f"malformed {data[:60]}", status(got) == want and b'{"error":{' in got, got[:200])
    for headers in SMUGGLED:
        got = server.raw(b"POST /generate HTTP/1.1\r\n" + HOST + headers + SECOND)
        check(f"smuggled {headers[:60]}", got.count(b"HTTP/1.1 ") == 1 and status(got) in (400, 501), got[:200])
    for cut in range(0, 150, 7):
        got = server.raw(request("/generate", long_one(1))[:cut] + b"\xff", is_all=True)
        check(f"cut off at {cut}", status(got) in (0, 400), got)
    for path in ("/%ff", "/%00", "/a%", "*", "/a b"):
        check(f"path {path}", server.get(path)[0] == 400)
    bad = [b"", b"{", b"[]", b"null", b'"\xff"', b'{"a":' * 1000, b'{"prompt": "\\ud800"}', b"{} {}", b'{"a":1,"a":2}']
    for b in bad:
        got = server.raw(b"POST /generate HTTP/1.1\r\n" + HOST + CLOSE + b"Content-Length: %d\r\n\r\n" % len(b) + b)
        check(f"JSON {b[:30]}", status(got) == 400, got[-300:])


def test_ordinary(server):
    check("404", server.get("/nothing")[0] == 404)
    got = server.raw(b"GET /generate HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n")
    check("405", status(got) == 405 and b"Allow: POST" in got, got)
    got = server.raw(b"HEAD /health HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n")
    check("HEAD", status(got) == 200 and b"Content-Length: 16" in got and body(got) == b"", got)
    got = server.raw(b"GET /health HTTP/1.0\r\n\r\n")
    check("HTTP/1.0", status(got) == 200 and b"Connection: close" in got, got)
    check("other Host", server.get("/health")[0] == 200 and
          status(server.raw(b"GET /health HTTP/1.1\r\nHost: evil.example\r\n" + CLOSE + b"\r\n")) == 403)
    many = 40
    got = server.raw((b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n") * (many - 1) + SECOND)
    check("pipelined", got.count(b"HTTP/1.1 200") == many and got.rstrip().endswith(b"}") and b"version" in got[-40:],
          got.count(b"HTTP/1.1 200"))
    one = request("/generate", long_one(4, False), CLOSE)
    whole = body(server.raw(one))
    with server.connect() as s:
        for i in range(len(one)):
            s.send(one[i:i + 1])
        check("byte by byte", body(rest(s)) == whole, whole)
    data = json.dumps(long_one(4, False)).encode()
    head = b"POST /generate HTTP/1.1\r\n" + HOST + CLOSE
    chunks = b"".join(b"%x\r\n%s\r\n" % (1, data[i:i + 1]) for i in range(len(data))) + b"0\r\n\r\n"
    got = server.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
    check("chunked body", body(got) == whole, got)
    with server.connect() as s:
        s.sendall(head + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(data))
        first = until(s, b"\r\n\r\n")
        s.sendall(data)
        check("100-continue", first.startswith(b"HTTP/1.1 100 ") and body(rest(s)) == whole, first)


def test_half_close(server):
    """Who only ends its sending still gets its answer."""
    for stream in (False, True):
        with server.connect() as s:
            s.sendall(request("/generate", long_one(200, stream)))
            s.shutdown(socket.SHUT_WR)
            got = rest(s)
            check(f"half-close, stream {stream}", b"200 OK" in got and b'"finish_reason":"length"' in got.replace(b" ", b""),
                  got[-200:])


def reset(s):
    """Closes at once, with a reset."""
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def is_idle(load):
    return load["running"] + load["waiting"] + load["models"][0]["kv_used"] == 0


def test_vanished(server):
    before, n_whole, n_cut = server.n_open(), server.n_ended("length"), server.n_ended("abort")
    for stream, wait, leave in ((True, True, reset), (True, True, socket.socket.close), (True, False, reset),
                                (False, False, reset), (False, False, socket.socket.close)):
        sockets = [server.connect() for _ in range(8)]
        for s in sockets:
            s.sendall(request("/generate", long_one(3500, stream)))
        for s in sockets:
            if wait:
                until(s, b"\r\n\r\n")
            leave(s)
        name = f"vanished, stream {stream}, {'read' if wait else 'unread'}, {leave.__name__}"
        # What was sent and left at once may be read after this look: then the next one sees it.
        server.until(f"{name}: nothing runs and no blocks are held", lambda: is_idle(server.load()))
    server.until("vanished: descriptors", lambda: server.n_open() <= before)
    server.until("vanished: nothing is left", lambda: is_idle(server.load()))
    check("vanished: none was computed to its end", server.n_ended("length") == n_whole)
    check("vanished: they are counted as cut off", server.n_ended("abort") >= n_cut + 16, server.n_ended("abort"))


def test_slow_reader(server):
    """Whoever reads late gets all of it."""
    with server.connect(small=True) as s:
        s.sendall(request("/generate", long_one(3000), CLOSE))
        until(s, b"\r\n\r\n")
        for _ in range(50):
            server.get("/health")
        check("slow reader", rest(s).endswith(b"0\r\n\r\n"))


def test_idle(server):
    before = server.n_open()
    sockets = [server.connect() for _ in range(500)]
    check("served beside 500 idle connections", server.get("/health")[0] == 200)
    server.until("they are held", lambda: server.n_open() >= 500)
    more = [server.connect() for _ in range(100)]
    got = server.raw(b"GET /health HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n")
    check("one too many", status(got) == 503 and b"Retry-After" in got, got)
    for s in sockets + more:
        s.close()
    server.until("idle: descriptors", lambda: server.n_open() <= before)


def test_health_while_busy(server):
    def one(_):
        return server.post("/generate", long_one(300, False))[0]

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        answers = [pool.submit(one, i) for i in range(24)]
        check("health while busy", all(server.get("/health")[0] == 200 for _ in range(20)))
        check("all are answered", all(a.result() == 200 for a in answers))


def test_stop():
    server = Server()
    with server.connect() as s, server.connect() as idle:
        s.sendall(request("/generate", long_one(3000)))
        until(s, b"\r\n\r\n")
        server.process.send_signal(signal.SIGTERM)
        check("stop: idle connections end", rest(idle) == b"")
        check("stop: a running answer ends as it should", rest(s).endswith(b"0\r\n\r\n"))
    check("stop: exit", server.process.wait() == 0, server.process.returncode)
    server.process.stdout.close()


def test_keys():
    with tempfile.TemporaryDirectory() as folder:
        keys = pathlib.Path(folder) / "keys"
        keys.write_text("sesame alice\n")
        keys.chmod(0o600)
        server = Server("--api-key-file", str(keys))
        check("no key", server.get("/version")[0] == 401)
        check("wrong key", server.get("/version", b"Authorization: Bearer sesam\r\n")[0] == 401)
        check("key", server.get("/version", b"Authorization: Bearer sesame\r\n")[0] == 200)
        check("x-api-key", server.get("/version", b"x-api-key: sesame\r\n")[0] == 200)
        check("health needs none", server.get("/health")[0] == 200)
        got = server.raw(b"POST /generate HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000\r\n\r\n")
        check("refused before the body", status(got) == 401 and b"WWW-Authenticate" in got, got)
        server.stop("keys")


def test_unix():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "quern.sock")
        server = Server(host=f"unix:{path}")
        check("unix socket", server.get("/health")[0] == 200)
        with server.connect() as s:
            s.sendall(request("/generate", long_one(3500, False)))
        server.until("unix: vanished", lambda: server.load()["running"] + server.load()["waiting"] == 0)
        server.stop("unix")
        # inside the sandbox nothing can be removed; the next server takes its place
        for sandbox in ("auto", "off"):
            server = Server("--sandbox", sandbox, host=f"unix:{path}")
            check("after one that left its file", server.get("/health")[0] == 200)
            server.stop(f"unix, sandbox {sandbox}")
        check("the socket file is gone", not os.path.exists(path))


def test_tls():
    if not shutil.which("openssl"):
        skip("tls", "no openssl to make a certificate")
        return
    with tempfile.TemporaryDirectory() as folder:
        cert, key = os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
                        "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out",
                        cert], check=True, capture_output=True)
        server = Server("--tls-cert", cert, "--tls-key", key)
        context = ssl.create_default_context(cafile=cert)
        before = server.n_open()
        with context.wrap_socket(server.connect(), server_hostname="localhost") as s:
            s.sendall(b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n")
            check("tls", status(until(s, b"ok")) == 200)
            s.sendall(request("/generate", long_one(500), CLOSE))
            check("tls: stream", rest(s).endswith(b"0\r\n\r\n"))
        with context.wrap_socket(server.connect(), server_hostname="localhost") as s:
            s.sendall(request("/generate", long_one(3500)))
            until(s, b"\r\n\r\n")
        check("tls: no plain text", not server.raw(b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n").startswith(b"HTTP"))
        with context.wrap_socket(server.connect(), server_hostname="localhost") as s:
            for _ in range(10000):
                s.sendall(b"GET /load HTTP/1.1\r\n" + HOST + b"\r\n")
                got = until(s, b"}\n")
                if b'"server_load":0' in got:
                    break
            check("tls: a vanished client's request ends", b'"server_load":0' in got, got)
        check("tls: descriptors", server.n_open() <= before + 3, server.n_open())
        server.stop("tls")


def main():
    server = Server("--max-connections", "600", "--max-per-address", "600")
    for test in (test_malformed, test_ordinary, test_half_close, test_vanished, test_slow_reader, test_idle,
                 test_health_while_busy):
        test(server)
    server.stop("the server")
    for test in (test_stop, test_keys, test_unix, test_tls):
        test()
    finish()


main()
