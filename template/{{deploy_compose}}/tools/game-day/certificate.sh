#!/bin/sh
# Start a server whose certificate ends in $1 days, or restart it with a new one, beside the exporter that looks at it.
set -eu
folder=.local/game-day/tls
mkdir -p "$folder"
openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=tls -days "$1" -keyout "$folder/key.pem" -out "$folder/cert.pem"
chmod a+r "$folder/key.pem"
docker compose --profile game-day up --no-build --no-deps --force-recreate --detach tls blackbox
