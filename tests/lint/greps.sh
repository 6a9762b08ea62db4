#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# House rules that a pattern can see. Each finding is printed; one is enough to fail.
cd "$(dirname "$0")/../.." || exit 2
bad=0

# rule TEXT FINDINGS
rule() {
    [ -z "$2" ] || { printf '%s:\n%s\n' "$1" "$2"; bad=1; }
}
# code PATTERN: lines of src/ that match outside comments, as path:line:text
code() {
    grep -rnE --include='*.[ch]' --include='*.def' "$1" src | grep -vE '^[^:]*:[0-9]+: *(/?\*|//)'
}
sources() {
    find src include tests docs -name '*.[ch]'
    find tools tests examples .ci -name '*.sh' -o -name '*.py' -o -path '.ci/run'
    echo Makefile CMakeLists.txt | tr ' ' '\n'
}

w='(^|[^_[:alnum:]])'
rule 'getenv outside base/file.c (one place reads the environment)' \
    "$(code "${w}(secure_)?getenv *\(" | grep -v '^src/base/file\.c:')"
rule 'exit outside cmd/ (an error is returned)' "$(code "${w}(exit|quick_exit) *\(" | grep -v '^src/cmd/')"
rule 'abort outside base/base.c' "$(code "${w}abort *\(" | grep -v '^src/base/base\.c:')"
rule 'printing outside cmd/' \
    "$(code "${w}(printf|vprintf|puts|putchar|perror|fputs|fputc) *\(" | grep -v '^src/cmd/')"
rule 'fprintf to stderr or stdout outside cmd/' "$(code "fprintf *\( *std(err|out)" | grep -vE '^src/(cmd/|base/base\.c:)')"
rule 'memory outside base/mem.c' \
    "$(code "${w}(malloc|calloc|realloc|free|strdup|strndup|aligned_alloc|posix_memalign|asprintf) *\(" | grep -v '^src/base/mem\.c:')"
rule 'an instruction set tested by the preprocessor (own file for each set)' \
    "$(code '# *(if|ifdef|elif).*__(AVX|SSE|FMA|F16C|ARM_FEATURE|ARM_NEON)')"
rule 'intrinsics outside the files of their instruction set' \
    "$(code '# *include *<(immintrin|x86intrin|emmintrin|arm_neon)\.h>' | grep -vE '^src/[^:]*_(avx2|avx512|neon|i8mm)(_tmpl)?\.[ch]:')"
rule 'text to number by the C library on input (base/str.h has checked ones)' \
    "$(code "${w}(atoi|atol|atof|strtol|strtoul|strtoll|strtoull|strtod|strtof|sscanf|sprintf|strcpy|strcat|gets) *\(" | grep -v '^src/base/str\.c:')"
rule 'a to-do mark' "$(grep -rnE --include='*.[ch]' "${w}(TODO|FIXME|XXX|HACK)([^[:alnum:]]|$)" src include docs)"
rule 'a tab' "$(grep -rnP --include='*.[ch]' --include='*.py' --include='*.sh' '\t' src include tests docs tools examples)"
rule 'invisible or direction-changing Unicode' \
    "$(grep -rnP --include='*.[ch]' --include='*.py' --include='*.sh' --include='*.md' '[\x{00AD}\x{200B}-\x{200F}\x{202A}-\x{202E}\x{2060}-\x{2064}\x{2066}-\x{2069}\x{FEFF}]' src include tests docs tools examples README*.md CONTRIBUTING.md)"
rule 'a path of one machine' \
    "$(grep -rnE '(^|[^[:alnum:]_.])/(work|home|root|mnt)/[a-z]' src include tests/unit tests/e2e tests/lint tests/fuzz/*.c docs tools examples Makefile CMakeLists.txt README*.md CONTRIBUTING.md .ci 2>/dev/null | grep -v '^tests/lint/greps\.sh:')"
rule 'no SPDX line in the first five' "$(sources | while read -r f; do
    case $f in
    CMakeLists.txt | tests/lint/layers.sh | tests/lint/isa.sh | tests/lint/size.sh | tests/unit/check.h) continue ;;
    esac
    head -n 5 "$f" | grep -q SPDX-License-Identifier || echo "$f"
done)"
exit $bad
