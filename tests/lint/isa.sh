#!/bin/sh
# Fails when a baseline object holds wide-register instructions. usage: isa.sh BUILD_DIR
bad=0
for o in $(find "$1" -name '*.o' | grep -vE '(isa_|_)(avx2|avx512)|cuda'); do
  n=$(objdump -d --no-show-raw-insn "$o" | grep -cE '%(ymm|zmm)[0-9]')
  [ "$n" -eq 0 ] || { echo "$o: $n wide-register instructions in a baseline object"; bad=1; }
done
exit $bad
