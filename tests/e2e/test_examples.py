# SPDX-License-Identifier: Apache-2.0
"""The examples. Always: their scripts are sound, and every option in them is there. With the demo model in the cache they are run. What a model of
half a billion parameters says is no matter of right or wrong; what is checked is what must hold: the shape of the answer, and the figures, which it
gets right. The text itself must be the one beside the script on a processor of the kind that wrote it (AVX2 without AVX-512): the same bits come
from any number of threads, but other instructions round otherwise, and one bit may choose another word."""
import json
import os
import pathlib
import re
import subprocess

from cli import QUERN, ROOT, check, demo_model, finish, run, skip

HERE = ROOT / "examples"
WANTED = {"company": "Lumen Garden Tools plc", "year": 2024, "currency": "EUR", "revenue_millions": 184.6, "operating_profit_millions": 16.9,
          "net_profit_millions": 11.8, "cash_millions": 24.1, "employees": 1264, "dividend_per_share": 0.42}


def is_same_kind():
    info = pathlib.Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.is_file() else set()
    return "avx2" in flags and "avx512_vnni" not in flags


def test_scripts():
    scripts = sorted(HERE.glob("*.sh"))
    check("there are four", len(scripts) == 4, scripts)
    for s in scripts:
        text = s.read_text()
        check(f"{s.name} is sound", subprocess.run(["sh", "-n", str(s)], check=False).returncode == 0 and os.access(s, os.X_OK) and
              text.count("\n") < 40 and "\nset -eu\n" in text, s)
        check(f"{s.name} is in the table", f"({s.name})" in (HERE / "README.md").read_text(), "missing")
        for command in set(re.findall(r'quern\}"? (run|serve|segment) ', text)):
            helped = run(command, "--help")[1]
            named = set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", "\n".join(line for line in text.split("\n") if "curl" not in line)))
            named -= {"--"} | ({"--fail-with-body"})
            check(f"{s.name}: options of quern {command}", all(re.search(rf"(?<![\w-]){n}(?![\w-])", helped) for n in named), named)
    rc = subprocess.run([str(HERE / "contract_summary.sh"), "fr"], env={**os.environ, "MODEL": "x"}, capture_output=True, check=False).returncode
    check("another language is refused", rc == 2, rc)


def ask(model, *args, **env):
    p = subprocess.run([str(HERE / args[0]), *args[1:]], env={**os.environ, "QUERN": str(pathlib.Path(QUERN).resolve()), "MODEL": str(model), **env},
                       stdin=subprocess.DEVNULL, capture_output=True, check=False)
    check(" ".join(args) + " ends well", p.returncode == 0, p.stderr.decode()[-400:])
    return p.stdout.decode()


def same(name, got, beside):
    if is_same_kind():
        want = (HERE / beside).read_text()
        check(f"{name}: what is printed beside it", got == want, got)
    else:
        skip(f"{name}: the very text", "it was written with AVX2, other instructions round otherwise")


def test_answers(model):
    for args, beside, least, words in ((["contract_summary.sh"], "contract_summary.expected", 100, r"Harbour|Northfield|[Bb]icycle"),
                                       (["contract_summary.sh", "zh"], "contract_summary.zh.expected", 20, r"合同|甲方|乙方"),
                                       (["paper_question.sh"], "paper_question.expected", 20, r"chiller|fouling|river|exchanger|rins")):
        got = ask(model, *args)
        check(f"{args} says something of it", len(got) >= least and re.search(words, got), got)
        same(" ".join(args), got, beside)
    got = ask(model, "role_play.sh")
    check("three questions, three answers", len(re.findall(r"^> .+\n.+", got, re.M)) == 3, got)
    same("role_play.sh", got, "role_play.expected")


def test_figures(model):
    got = ask(model, "report_figures.sh")
    schema = json.loads((HERE / "report.schema.json").read_text())
    figures = json.loads(got)
    check("the members of the schema, no others", sorted(figures) == sorted(schema["required"]) == sorted(schema["properties"]), figures)
    check("the figures of the report", figures == WANTED, figures)
    same("report_figures.sh", got, "report_figures.expected")


if __name__ == "__main__":
    test_scripts()
    if demo_model():
        test_answers(demo_model())
        test_figures(demo_model())
    else:
        skip("what the examples answer", "no demo model in the cache")
    finish()
