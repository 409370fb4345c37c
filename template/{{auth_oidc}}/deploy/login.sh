#!/bin/sh
# Gets a token of the provider for SMOKE_CLIENT_ID with SMOKE_CLIENT_SECRET (client credentials), and
# prints the header with it: sh deploy/login.sh https://api.example.com
# SMOKE_SCOPE, SMOKE_AUDIENCE: for providers that need them.
set -eu
if [ -z "${SMOKE_CLIENT_ID:-}" ] || [ -z "${SMOKE_CLIENT_SECRET:-}" ]; then
    echo "login: SMOKE_CLIENT_ID and SMOKE_CLIENT_SECRET are not set" >&2
    exit 3
fi
tokens=$(curl --fail --silent --show-error --max-time 30 "$1/api/v1/auth/openid-configuration" |
    sed -n 's/.*"token_endpoint": *"\([^"]*\)".*/\1/p')
[ -n "$tokens" ] || { echo "login: $1 names no token endpoint of its provider" >&2; exit 1; }
token=$(printf %s "$SMOKE_CLIENT_SECRET" |
    curl --fail --silent --show-error --max-time 30 --data grant_type=client_credentials \
        --data-urlencode "client_id=$SMOKE_CLIENT_ID" --data-urlencode client_secret@- \
        ${SMOKE_SCOPE:+--data-urlencode "scope=$SMOKE_SCOPE"} \
        ${SMOKE_AUDIENCE:+--data-urlencode "audience=$SMOKE_AUDIENCE"} "$tokens" |
    sed -n 's/.*"access_token": *"\([^"]*\)".*/\1/p')
[ -n "$token" ] || { echo "login: the provider gave $SMOKE_CLIENT_ID no token" >&2; exit 1; }
echo "Authorization: Bearer $token"
