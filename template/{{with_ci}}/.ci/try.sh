#!/bin/sh
# Runs the image IMAGE with Compose, waits until it is ready, and removes everything.
set -eu
cd "$(dirname "$0")/.."
export COMPOSE_PROJECT_NAME="try-$$" # never that of a service which runs on this machine
trap 'docker compose down --volumes' EXIT
sh compose/secrets.sh
docker compose up --no-build --wait --wait-timeout 180 || { docker compose logs; exit 1; }
docker compose exec --no-TTY api python -c \
    "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8000/health/ready').read().decode())"
