# SPDX-License-Identifier: Apache-2.0
"""The chat on a terminal: editing, history, commands, Ctrl-C and Ctrl-D, through a pseudo-terminal."""
import os
import pty
import re
import select
import signal
import tempfile
import termios
import time

from cli import GOLDEN, QUERN, check, finish, skip

SMALL = GOLDEN / "models" / "qwen3-tied-bf16"
TEMPLATE = "{%- for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
PATIENCE = 60  # seconds; only a failure waits so long


class Chat:
    def __init__(self, folder, *args):
        self.out = b""
        self.seen = 0
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(XDG_CACHE_HOME=folder, TERM="xterm", LC_ALL="C.UTF-8")
            os.execv(QUERN, [QUERN, "run", "-m", str(SMALL), "--chat-template", os.path.join(folder, "t.jinja"), *args])

    def read(self):
        """False: the program has ended."""
        if not select.select([self.fd], [], [], PATIENCE)[0]:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self.out += data
        return bool(data)

    def wait(self, text):
        """Waits for text after what was waited for before; gives what came, or None."""
        text = text.encode()
        end = time.monotonic() + PATIENCE
        while text not in self.out[self.seen:]:
            if time.monotonic() > end or not self.read():
                return None
        begin = self.seen
        self.seen = self.out.index(text, begin) + len(text)
        return self.out[begin:self.seen].decode("utf-8", "replace")

    def send(self, text):
        """Typed while the program edits the line: what comes before that, the terminal would echo and keep."""
        end = time.monotonic() + PATIENCE
        while termios.tcgetattr(self.fd)[3] & termios.ICANON and time.monotonic() < end:
            select.select([], [], [], 0.01)
        os.write(self.fd, text.encode())

    def interrupt(self):
        os.write(self.fd, b"\x03")

    def end(self):
        while self.read():
            pass
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_chat(folder):
    c = Chat(folder, "-n", "5", "--ignore-eos", "--temperature", "0")
    check("the chat begins", c.wait(">>> ") is not None, c.out)
    c.send("hellö\r")
    check("an answer with its speeds", c.wait("+ 5 tokens") is not None, c.out)
    c.wait(">>> ")
    c.send("/help\r")
    check("/help", c.wait("/system TEXT") is not None, c.out)
    c.wait(">>> ")
    c.send("one\\\r")
    check("a line that goes on", c.wait("... ") is not None, c.out)
    c.send("two\r")
    check("its answer", c.wait("+ 5 tokens") is not None, c.out)
    c.wait(">>> ")
    c.send('"""\r')
    c.wait("... ")
    c.send("three\r")
    c.wait("... ")
    c.send('"""\r')
    check("a block", c.wait("+ 5 tokens") is not None, c.out)
    c.wait(">>> ")
    c.send("/again\r")
    check("/again", c.wait("+ 5 tokens") is not None, c.out)
    c.wait(">>> ")
    c.send("/clear\r")
    check("/clear", c.wait("forgotten") is not None, c.out)
    c.wait(">>> ")
    c.send("/nonsense\r")
    check("an unknown command", c.wait("/nonsense is no command") is not None, c.out)
    c.wait(">>> ")
    c.send("half a li\x03")
    check("Ctrl-C forgets the line", c.wait(">>> ") is not None, c.out)
    c.send("\x04")
    check("Ctrl-D leaves", c.end() == 0, c.out[-200:])
    check("no control bytes", not re.search(rb"[\x00-\x06\x0e-\x1a]", c.out), c.out)

    c = Chat(folder, "-n", "5", "--ignore-eos")
    c.wait(">>> ")
    c.send("\x1b[A\x1b[A\x1b[A")
    check("history", c.wait("again") is not None, c.out)  # the slash stays on the screen from the line before
    c.send("\x15/exit\r")
    check("/exit", c.end() == 0, c.out[-200:])
    mode = os.stat(os.path.join(folder, "quern", "history")).st_mode & 0o777
    check("the history is private", mode == 0o600, oct(mode))


def test_interrupt(folder):
    c = Chat(folder, "-n", "20000", "--max-ctx", "32768", "--ignore-eos")
    for i in range(3):
        check("the prompt", c.wait(">>> ") is not None, c.out[-200:])
        c.send(f"question {i}\r")
        c.wait(f"question {i}")
        c.wait(" ")
        c.interrupt()
        check("Ctrl-C stops the answer and not the program", c.wait("stopped after ") is not None, c.out[-200:])
        c.wait(">>> ")
        c.send("/clear\r")
        c.wait("forgotten")
    c.wait(">>> ")
    c.send("\x04")
    check("and Ctrl-D leaves it", c.end() == 0, c.out[-200:])

    c = Chat(folder, "-n", "20000", "--max-ctx", "32768", "--ignore-eos", "a question")
    c.read()
    while b" " not in c.out and c.read():
        pass
    os.kill(c.pid, signal.SIGINT)
    check("Ctrl-C in a single answer", c.end() in (130, -signal.SIGINT), c.out[-200:])


def has_terminals():
    try:
        for fd in os.openpty():
            os.close(fd)
    except OSError:
        return False
    return True


if not has_terminals():
    skip("the chat", "no pseudo-terminals here (/dev/pts)")
elif SMALL.is_dir():
    with tempfile.TemporaryDirectory() as tmp:
        with open(os.path.join(tmp, "t.jinja"), "w", encoding="utf-8") as f:
            f.write(TEMPLATE)
        test_chat(tmp)
        test_interrupt(tmp)
else:
    skip("the chat", "no " + str(SMALL))
finish()
