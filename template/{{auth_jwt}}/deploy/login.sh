#!/bin/sh
# Logs in as SMOKE_USER, the e-mail address of an account for this alone, with SMOKE_PASSWORD, and
# prints the header with the token: sh deploy/login.sh https://api.example.com
set -eu
if [ -z "${SMOKE_USER:-}" ] || [ -z "${SMOKE_PASSWORD:-}" ]; then
    echo "login: SMOKE_USER and SMOKE_PASSWORD are not set" >&2
    exit 3
fi
token=$(printf %s "$SMOKE_PASSWORD" |
    curl --fail --silent --show-error --max-time 30 --data-urlencode "username=$SMOKE_USER" \
        --data-urlencode password@- "$1/api/v1/auth/login" | sed -n 's/.*"access_token":"\([^"]*\)".*/\1/p')
[ -n "$token" ] || { echo "login: $SMOKE_USER could not log in at $1" >&2; exit 1; }
echo "Authorization: Bearer $token"
