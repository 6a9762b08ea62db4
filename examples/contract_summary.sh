#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A summary of a contract of several pages, part by part. usage: contract_summary.sh [zh]
# zh: the Chinese one. QUERN and MODEL name another program and another model than the demo model.
set -eu
cd "$(dirname "$0")"
model=${MODEL:-$(../tools/get_demo_model.sh)}
case ${1:-en} in
en)
    file=contract.md
    map="Which duties, amounts and dates does this part of a contract name? Answer in two short sentences."
    reduce="Notes on the parts of one contract follow. Tell a busy reader in four short sentences what it is about, what it costs, how long it runs and how it ends."
    ;;
zh)
    file=contract.zh.md
    map="下面是一份合同的第{part}部分，共{parts}部分。请用三句短话概括，保留名称、金额和日期。"
    reduce="下面是同一份合同各部分的要点。请合并成一段不超过一百五十字的摘要，写明要做什么、期限、费用和违约责任。"
    ;;
*)
    echo "usage: contract_summary.sh [zh]" >&2
    exit 2
    ;;
esac
exec "${QUERN:-../build/release/quern}" segment -m "$model" -t 2 --temperature 0 --in "$file" \
    --max-tokens 640 --overlap 32 --answer-tokens 160 --map "$map" --reduce "$reduce"
