#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A question that several chapters of a paper answer together. usage: paper_question.sh [QUESTION]
# QUERN and MODEL name another program and another model than the demo model.
set -eu
cd "$(dirname "$0")"
model=${MODEL:-$(../tools/get_demo_model.sh)}
question=${1:-"Why did the chillers still run in summer, and what was done against it?"}
exec "${QUERN:-../build/release/quern}" segment -m "$model" -t 2 --temperature 0 --in paper.md \
    --max-tokens 512 --overlap 0 --answer-tokens 120 \
    --map "Chapters of a paper:

{text}

Which facts in these chapters help to answer this question? Answer in at most two sentences; if there are none, answer: nothing.
Question: $question" \
    --reduce "Notes on the chapters of a paper:

{text}

Answer this question from the notes, in at most three sentences: $question"
