#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs the tests of a build and counts single tests, not programs: cmocka's by TAP, others by their own last line
# "N passed, N failed, N skipped". Skipped ones are listed with their reasons. usage: run.sh BUILD_DIR [CTEST_OPTION...]
set -eu
build=$1
shift
log=$build/tests.log
CMOCKA_MESSAGE_OUTPUT=TAP ctest --test-dir "$build" -V -j "$(nproc)" "$@" >"$log" 2>&1 || true
awk '
/^ *[0-9]+\/[0-9]+ Test +#[0-9]+:/ {            # the end of one program
  match($0, /#[0-9]+:/); id = substr($0, RSTART + 1, RLENGTH - 2) + 0
  name = $0; sub(/.*#[0-9]+: /, "", name); sub(/ .*/, "", name)
  ended++
  good = $0 ~ / Passed /; skip = $0 ~ /\*\*\*Skipped/
  if (skip) { s[id]++; reason[++n_reasons] = name ": " (why[id] != "" ? why[id] : "no reason given") }
  else if (!good && !f[id]) { f[id]++; failure[++n_failures] = name ": ended badly (" $0 ")"; sub(/.*\*\*\*/, "***", failure[n_failures]); failure[n_failures] = name ": " failure[n_failures] }
  else if (good && !(p[id] + f[id] + s[id])) p[id]++
  if (f[id]) bad[name] = id
  passed += p[id]; failed += f[id]; skipped += s[id]; names[id] = name
  next }
/^[0-9]+: / {
  id = $1 + 0; line = $0; sub(/^[0-9]+: /, "", line); text[id] = text[id] line "\n"
  if (line ~ /^(not )?ok [0-9]+ .*# SKIP/) {    # cmocka writes "not ok 2 # SKIP name"
    s[id]++; t = line; sub(/^.*# SKIP */, "", t)
    reason[++n_reasons] = t ": " (why[id] != "" ? why[id] : "no reason given"); why[id] = "" }
  else if (line ~ /^ok [0-9]+/) p[id]++
  else if (line ~ /^not ok [0-9]+/) { f[id]++; t = line; sub(/^not ok [0-9]+ (- )?/, "", t); failure[++n_failures] = t }
  else if (line ~ /skipped: /) { why[id] = line; sub(/.*skipped: /, "", why[id]); told[id] = told[id] line "\n" }
  else if (line ~ /^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped/) {
    split(line, q, " "); p[id] += q[1]; f[id] += q[3]; s[id] += q[5]
    if (q[3]) failure[++n_failures] = "see below"
    if (q[5]) { k = split(told[id], w, "\n"); for (i = 1; i < k; i++) { sub(/^skipped: /, "", w[i]); reason[++n_reasons] = w[i] } } } }
/^Total Tests:|tests passed,|^No tests were found/ { total = 1 }
END {
  for (n in bad) printf "---- %s ----\n%s", n, text[bad[n]]
  for (i = 1; i <= n_reasons; i++) print "skipped: " reason[i]
  for (i = 1; i <= n_failures; i++) print "FAILED: " failure[i]
  if (!ended) { print "no test ran; see the log"; failed++ }
  printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
  exit failed != 0 }' "$log" && rc=0 || rc=1
[ $rc = 0 ] || echo "(log: $log)" >&2
exit $rc
