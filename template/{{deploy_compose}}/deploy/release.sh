#!/bin/sh
# Deploys an image on this machine, or rolls back to the previous one:
#   sh deploy/release.sh registry/name:tag
#   sh deploy/release.sh --back
# .releases lists the deployed images, newest last, from before they serve. RELEASE_TIMEOUT: seconds until ready.
set -eu
cd "$(dirname "$0")/.."

say() {
    echo "release: $*" >&2
}

# Start everything except the migrations: they have run, and an older image lacks the newest ones.
serve() {
    export IMAGE="$1"
    services=$(docker compose config --services | grep -vx migrate)
    # shellcheck disable=SC2086 # several words
    docker compose up --no-build --no-deps --wait --wait-timeout "$2" $services
}

alertmanager() {
    docker compose exec --no-TTY alertmanager amtool --alertmanager.url=http://127.0.0.1:9093 "$@"
}

# Replacing the service stops it for seconds, which is nobody's incident. Objectives are not silenced:
# a bad release has to be noticed.
silence() {
    docker compose ps --services --status running 2>/dev/null | grep -qx alertmanager || return 0
    quiet=$(alertmanager silence add --author=release --comment="a release" \
        --duration="$((timeout + 120))s" 'alertname=~"ServiceDown|InstanceDown|WorkerDown"') ||
        say "alerts could not be silenced; the release goes on"
}

unsilence() {
    [ -z "${quiet:-}" ] || alertmanager silence expire "$quiet" || say "the silence $quiet ends by itself"
}

# Call the API from outside. SMOKE_URL: its address; none: do not.
smoke() {
    address=${SMOKE_URL:-https://$(sed -n 's/^DOMAIN=//p' .env)}
    [ "$address" = none ] || sh deploy/smoke.sh "$address"
}

if ! grep -qs '^COMPOSE_FILE=.*compose\.production\.yaml' .env; then
    say "the file .env would say COMPOSE_FILE=compose.yaml:compose.production.yaml, and DOMAIN=..."
    exit 2
fi
exec 9<. # locked until this ends, however it ends
flock -n 9 || { say "another release is running"; exit 1; }
touch .releases
serving=$(tail -n 1 .releases)
timeout=${RELEASE_TIMEOUT:-180}
trap unsilence EXIT

case ${1:-} in
--back)
    before=$(tail -n 2 .releases | sed '$d')
    [ -n "$before" ] || { say "there is no image to go back to"; exit 1; }
    silence
    serve "$before" "$timeout"
    sed -i '$d' .releases
    say "$before serves again"
    ;;
"" | -*)
    say "say which image: sh deploy/release.sh registry/name:tag, or --back"
    exit 2
    ;;
*)
    sh compose/secrets.sh
    if ! IMAGE="$1" docker compose run --rm migrate; then
        say "the migrations failed, so nothing was changed: ${serving:-nothing} serves"
        exit 1
    fi
    silence
    [ "$1" = "$serving" ] || echo "$1" >>.releases
    if ! serve "$1" "$timeout" || ! smoke; then
        say "$1 did not get ready, or failed the smoke test"
        [ -z "$serving" ] || serve "$serving" 600 || { say "$serving did not come back either"; exit 1; }
        [ "$1" = "$serving" ] || sed -i '$d' .releases
        [ -n "$serving" ] || exit 1
        say "$serving serves again"
        exit 1
    fi
    say "$1 serves"
    ;;
esac
