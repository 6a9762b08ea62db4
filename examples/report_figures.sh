#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The figures of a financial report as JSON: whatever the model is, the answer is what report.schema.json allows.
# usage: report_figures.sh [FILE]. QUERN and MODEL name another program and another model than the demo model.
set -eu
cd "$(dirname "$0")"
model=${MODEL:-$(../tools/get_demo_model.sh)}
{
    echo "Extract the figures of the latest year from this report as JSON. Amounts are in millions."
    echo
    cat -- "${1:-report.txt}"
} | "${QUERN:-../build/release/quern}" run -m "$model" -t 2 --temperature 0 --max-tokens 400 -q --json-schema report.schema.json
