#!/bin/sh
# Makes the secrets of the compose stack in .secrets/, once; a file that is there stays as it is.
set -eu
umask 022 # containers read the files as another user ...
cd "$(dirname "$0")/.."
mkdir -p .secrets
chmod 700 .secrets # ... and the folder keeps other users of this machine out.
echo '*' >.secrets/.gitignore

random() {
    od -A n -N 32 -t x1 /dev/urandom | tr -d ' \n'
}

keep() {
    [ -s ".secrets/$1" ] || printf %s "$2" >".secrets/$1"
}

keep secret_key "$(random)"
keep grafana_password "$(random)"
keep postgres_password "$(random)"
keep database_url "postgresql+asyncpg://app:$(cat .secrets/postgres_password)@postgres:5432/app"
