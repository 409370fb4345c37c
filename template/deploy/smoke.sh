#!/bin/sh
# Calls the API as a client does, with a real login, and leaves nothing behind:
#   sh deploy/smoke.sh https://api.example.com
# Credentials are the variables of deploy/login.sh, or lines NAME=value in .secrets/smoke; without
# them, only readiness is checked. SMOKE_TIMEOUT: seconds until ready.
# Your own steps: deploy/smoke/*.sh. `request METHOD PATH STATUS [JSON]` fails unless the status is
# STATUS, and leaves the body in $files/body; $undo is a METHOD and PATH to call at the end, before
# deploy/smoke/end/*.sh.
set -eu
cd "$(dirname "$0")/.."
url=${1:?say which URL: sh deploy/smoke.sh https://api.example.com}

say() {
    echo "smoke: $*" >&2
}

if [ -f .secrets/smoke ]; then
    while IFS= read -r line; do
        case $line in SMOKE_*=*) export "${line?}" ;; esac
    done <.secrets/smoke
fi

umask 077
files=$(mktemp -d)
undo=
: >"$files/header"

call() {
    curl --silent --show-error --max-time 30 --output "$files/body" --write-out '%{http_code}' \
        --header "@$files/header" --header 'Content-Type: application/json' \
        --request "$1" ${3:+--data "$3"} "$url$2" || true
}

request() {
    status=$(call "$1" "$2" "${4:-}")
    [ "$status" = "$3" ] || { say "$1 $2 answered with $status instead of $3"; exit 1; }
}

finish() {
    # shellcheck disable=SC2086 # two words
    [ -z "$undo" ] || call $undo >/dev/null
    for step in deploy/smoke/end/*.sh; do
        # shellcheck disable=SC1090
        [ ! -f "$step" ] || [ ! -s "$files/header" ] || . "$step"
    done
    rm -rf "$files"
}
trap finish EXIT

until=$(($(date +%s) + ${SMOKE_TIMEOUT:-120}))
until [ "$(call GET /health/ready 2>"$files/errors")" = 200 ]; do
    [ "$(date +%s)" -lt "$until" ] || { say "$url/health/ready does not answer with 200 $(cat "$files/errors")"; exit 1; }
    sleep 1
done

login=0
sh deploy/login.sh "$url" >"$files/header" || login=$?
case $login in
0) ;;
3) say "so $url is ready, and nothing else was checked"; exit 0 ;;
*) say "the login failed"; exit 1 ;;
esac
for step in deploy/smoke/*.sh; do
    # shellcheck disable=SC1090
    [ ! -f "$step" ] || . "$step"
done
say "$url serves"
