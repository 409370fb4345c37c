#!/bin/sh
# Prints the header with SMOKE_API_KEY, a key for this alone: app keys create smoke
set -eu
[ -n "${SMOKE_API_KEY:-}" ] || { echo "login: SMOKE_API_KEY is not set" >&2; exit 3; }
echo "Authorization: Bearer $SMOKE_API_KEY"
