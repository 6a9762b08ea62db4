# SPDX-License-Identifier: Apache-2.0
"""What the tests of the program share: running it, counting, finding models. Standard library only."""
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
QUERN = sys.argv[1] if len(sys.argv) > 1 else str(ROOT / "build" / "release" / "quern")

counts = {"passed": 0, "failed": 0, "skipped": 0}


def run(*args, stdin="", timeout=120):
    """(exit status, stdout, stderr), all text as UTF-8."""
    p = subprocess.run([QUERN, *map(str, args)], input=stdin.encode() if isinstance(stdin, str) else stdin,
                       capture_output=True, timeout=timeout, check=False)
    return p.returncode, p.stdout.decode("utf-8", "replace"), p.stderr.decode("utf-8", "replace")


def check(name, is_good, detail=""):
    counts["passed" if is_good else "failed"] += 1
    if not is_good:
        print(f"FAILED: {name}: {detail}")
    return is_good


def skip(name, why):
    counts["skipped"] += 1
    print(f"{name} skipped: {why}")


def one_line(text):
    return text.endswith("\n") and text.count("\n") == 1


def demo_model():
    """The demo model in the cache folder, or None: a test never downloads it."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    path = pathlib.Path(cache) / "quern" / "models" / "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
    return path if path.is_file() else None


def finish():
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    sys.exit(1 if counts["failed"] else 0)
