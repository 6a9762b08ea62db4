#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Fails when an inner loop of the 4-bit products stores a vector on the stack: 16 registers must do (a constant may be read from there). usage: stack.sh BUILD_DIR [OBJDUMP]
# An inner loop is the code between a backward jump and its target that holds no other backward jump. Layouts whose integers are folded
# several times a block need more than 16 registers for 4 tokens: they are not looked at.
o=$(find "$1" -name 'matmul_avx2.c.o' | head -n 1)
[ -n "$o" ] || { echo "stack.sh: not run, no AVX2 object in $1"; exit 0; }
"${2:-objdump}" -d --no-show-raw-insn "$o" | awk '
function finish(  i, j, n, inner) {
  if (name == "") return
  for (i = 0; i < jumps; i++) {
    inner = 1
    for (j = 0; j < jumps; j++)
      if (j != i && from[j] < from[i] && from[j] >= to[i]) inner = 0
    for (n = to[i]; inner && n <= from[i]; n++)
      if (spill[n] != "") { printf "%s: %s\n", name, spill[n]; bad = 1 }
  }
  seen++
  name = ""
}
/^[0-9a-f]+ </ {
  finish()
  if (match($2, /^<gem[mv]_4_(D|DM|K)>:$/)) { name = substr($2, 2, length($2) - 3); lines = jumps = 0; split("", at); split("", spill) }
  next
}
name != "" && NF > 1 {
  sub(/:$/, "", $1)
  at[$1] = ++lines
  if ($0 ~ /[xy]mm[0-9]+,[-0-9a-fx]*\(%r[sb]p\)$/) spill[lines] = $0
  if ($2 ~ /^j/ && $3 in at) { from[jumps] = lines; to[jumps++] = at[$3] }
}
END {
  finish()
  if (seen != 6) { printf "stack.sh: found %d of the 6 functions\n", seen; bad = 1 }
  exit bad
}'
