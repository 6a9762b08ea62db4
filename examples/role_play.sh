#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A chat in a role, over HTTP: each line of role_play.in is said to a lighthouse keeper, who remembers what was said before.
# usage: role_play.sh. QUERN and MODEL name another program and another model than the demo model; URL a server that runs already.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d) server=
end() {
    rm -rf "$work"
    if [ -n "$server" ] && kill "$server"; then cat <&3 >/dev/null; fi # what it says last
}
trap end EXIT
trap 'exit 130' HUP INT TERM
if [ -z "${URL:-}" ]; then
    model=${MODEL:-$(../tools/get_demo_model.sh)}
    mkfifo "$work/said"
    "${QUERN:-../build/release/quern}" serve -m "demo=$model" -t 2 --port 0 --quiet >"$work/said" &
    server=$!
    exec 3<"$work/said"
    while read -r line <&3; do
        [ "$line" = "${line#listening on }" ] || URL=${line#listening on }
        [ "$line" = "${line#ready; }" ] || break
    done
    [ -n "${URL:-}" ] || exit 1 # it has said why
fi

messages='{"role": "system", "content": "You are Brannoch, an old lighthouse keeper in the year 1890. Stay in this role. Answer in two short sentences."}'
while read -r line; do
    said=$(printf %s "$line" | sed 's/[\\"]/\\&/g')
    messages="$messages, {\"role\": \"user\", \"content\": \"$said\"}"
    curl -sS --fail-with-body -o "$work/answer" -d "{\"messages\": [$messages], \"temperature\": 0, \"max_tokens\": 80}" "$URL/v1/chat/completions" ||
        { cat "$work/answer" >&2; exit 1; }
    # The answer as it stands in the JSON goes back as it is; for the eye its line ends and quotes are put right.
    answer=$(sed -nE 's/.*"message": *\{"role": *"assistant", *"content": *"(([^"\\]|\\.)*)".*/\1/p' "$work/answer")
    messages="$messages, {\"role\": \"assistant\", \"content\": \"$answer\"}"
    printf '> %s\n%s\n\n' "$line" "$(printf %s "$answer" | sed 's/\\n/\n/g; s/\\"/"/g; s/\\\\/\\/g')"
done <role_play.in
