# SPDX-License-Identifier: Apache-2.0
"""A running `quern serve` for the tests: on a port of its own, with what it printed."""
import http.client
import json
import queue
import signal
import subprocess
import threading

from cli import QUERN


class Server:
    """with Server("-m", MODEL) as s: s.post("/v1/completions", {...})"""

    def __init__(self, *args, wait=True, before=(), **popen):
        self.p = subprocess.Popen([*before, QUERN, "serve", *map(str, args), "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  text=True, errors="replace", **popen)
        self.lines, self.log, self.port = [], [], 0
        self.said = queue.Queue()
        self.threads = [threading.Thread(target=self._read, args=(self.p.stdout, self.lines, self.said), daemon=True),
                        threading.Thread(target=self._read, args=(self.p.stderr, self.log, None), daemon=True)]
        for t in self.threads:
            t.start()
        self.wait_for("listening on ")
        if wait:
            self.wait_for("ready; ")

    def _read(self, f, to, said):
        for line in f:
            to.append(line)
            if said:
                said.put(line)
        if said:
            said.put(None)

    def wait_for(self, words):
        """The first line of standard output from here on that has the words."""
        while True:
            line = self.said.get()
            if line is None:
                self.p.wait()
                self.threads[1].join()
                raise AssertionError(f"ended with {self.p.returncode} before '{words}': {''.join(self.lines + self.log)}")
            if line.startswith("listening on http"):
                self.port = int(line.rsplit(":", 1)[1])
            if words in line:
                return line

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self, sig=signal.SIGTERM, wait=None):
        """The exit status; everything it said is in lines and log then. wait: TimeoutExpired after so many seconds."""
        if self.p.poll() is None:
            self.p.send_signal(sig)
        self.p.wait(wait)
        for t in self.threads:
            t.join()
        return self.p.returncode

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port)

    def request(self, method, path, body=None, headers=None):
        """(status, headers, text)"""
        c = self.connect()
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        c.request(method, path, body=body, headers={"Content-Type": "application/json", **(headers or {})} if body is not None else headers or {})
        r = c.getresponse()
        text = r.read().decode("utf-8", "replace")
        c.close()
        return r.status, dict((k.lower(), v) for k, v in r.getheaders()), text

    def get(self, path, headers=None):
        return self.request("GET", path, None, headers)

    def post(self, path, body, headers=None):
        """(status, the answer as an object)"""
        status, _, text = self.request("POST", path, body, headers)
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text

    def events(self, path, body, headers=None):
        """The data of a stream's events as objects, "[DONE]" as text; or (status, text)."""
        status, _, text = self.request("POST", path, body, headers)
        if status != 200:
            return status, text
        data = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
        return [d if d == "[DONE]" else json.loads(d) for d in data]
