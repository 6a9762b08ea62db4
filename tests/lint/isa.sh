#!/bin/sh
# Fails when a baseline object holds instructions of a set that it may not use: VEX or EVEX coded ones on x86 (names begin with v), dot
# and matrix products on ARM. usage: isa.sh BUILD_DIR OBJDUMP
bad=0
for o in $(find "$1" -name '*.o' | grep -vE '(isa_|_)(avx2|avx512|neon|i8mm)|cuda'); do
  n=$("$2" -d --no-show-raw-insn "$o" | grep -cE '^ +[0-9a-f]+:[[:space:]]+(v[a-z]|[us]+(dot|mmla)[[:space:]])')
  [ "$n" -eq 0 ] || { echo "$o: $n instructions of a wider set in a baseline object"; bad=1; }
done
exit $bad
