#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages that are missing, and says so. usage: setup.sh run|test|ci|arm
# run: build and run; test: and test; ci: and lint, fuzz and sanitize; arm: and cross-build for 64-bit ARM.
set -eu

run="gcc libc6-dev cmake ninja-build pkg-config ca-certificates libjansson-dev libutf8proc-dev libcurl4-openssl-dev
     libssl-dev libedit-dev libevent-dev python3 python3-pip"
test="libcmocka-dev binutils scdoc"
ci="clang clang-format clang-tidy libclang-rt-14-dev git python3-venv chromium chromium-driver"
arm="gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user libc6:arm64 libjansson-dev:arm64 libutf8proc-dev:arm64
     libcurl4-openssl-dev:arm64 libssl-dev:arm64 libedit-dev:arm64 libevent-2.1-7:arm64 libevent-pthreads-2.1-7:arm64 libevent-openssl-2.1-7:arm64 libcmocka-dev:arm64"

say() { printf '%s\n' "setup: $*" >&2; }

case ${1:-} in
run) wanted=$run ;;
test) wanted="$run $test" ;;
ci) wanted="$run $test $ci" ;;
arm) wanted="$run $test $arm" ;;
*) say "usage: setup.sh run|test|ci|arm"; exit 2 ;;
esac

if ! command -v dpkg-query >/dev/null 2>&1; then
    say "no Debian packages here; Quern needs what these give: $(echo $wanted)"
    exit 0
fi
# libevent-dev cannot stand beside its own for another processor: it is unpacked into the build folder, with the libraries
# that its links point to.
unpack_arm() {
    arm_root=$PWD/build/arm-root
    [ ! -e "$arm_root/usr/lib/aarch64-linux-gnu/pkgconfig/libevent.pc" ] || return 0
    say "unpacking libevent-dev:arm64"
    mkdir -p "$arm_root/deb"
    (cd "$arm_root/deb" && apt-get download libevent-dev:arm64 libevent-2.1-7:arm64 libevent-pthreads-2.1-7:arm64 libevent-openssl-2.1-7:arm64 >/dev/null &&
        for d in *.deb; do dpkg -x "$d" "$arm_root"; done && rm -- *.deb)
    sed -i "s|^prefix=.*|prefix=$arm_root/usr|" "$arm_root"/usr/lib/aarch64-linux-gnu/pkgconfig/*.pc
}

# is_there PACKAGE[:ARCHITECTURE]: for this processor, if no other is named
is_there() {
    case $1 in
    *:*) arch=${1#*:} ;;
    *) arch=$(dpkg --print-architecture) ;;
    esac
    dpkg-query -W -f '${db:Status-Status} ${Architecture}\n' "$1" 2>/dev/null | grep -qE "^installed (all|$arch)\$"
}

missing=
for p in $wanted; do
    is_there "$p" || missing="$missing $p"
done
if [ -z "$missing" ]; then
    [ "$1" != arm ] || unpack_arm
    exit 0
fi

root=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null 2>&1 || {
        say "missing packages; as root: apt-get install$missing"
        exit 1
    }
    root=sudo
fi
say "installing$missing"
[ "$1" != arm ] || $root dpkg --add-architecture arm64
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { $root apt-get update && $root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing; } \
    >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    say "apt-get failed"
    exit 1
fi
[ "$1" != arm ] || unpack_arm
