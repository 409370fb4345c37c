#!/bin/sh
# Deploys an image to the machine DEPLOY_TARGET (user@host) over SSH:
#   DEPLOY_TARGET=... DEPLOY_KEY=... DEPLOY_HOST_KEY=... sh deploy/ci.sh registry/name:tag
# The repository is cloned there, in DEPLOY_FOLDER in that user's home directory.
set -eu
image=${1:?say which image: sh deploy/ci.sh registry/name:tag}
: "${DEPLOY_TARGET:?is not set: it would be user@host}"
: "${DEPLOY_KEY:?is not set: it would be the private SSH key}"
: "${DEPLOY_HOST_KEY:?is not set: it would be what ssh-keyscan says of the host}"
folder=${DEPLOY_FOLDER:-service}
revision=$(git rev-parse HEAD)

umask 077
files=$(mktemp -d)
trap 'rm -rf "$files"' EXIT
printf '%s\n' "$DEPLOY_KEY" >"$files/key"
printf '%s\n' "$DEPLOY_HOST_KEY" >"$files/known_hosts"

# The smoke test runs there; its credentials go through the pipe, not through arguments. The release goes on if
# the connection breaks or the pipeline is cancelled: it would end between two containers.
# shellcheck disable=SC2029 # meant to be expanded here
env | grep '^SMOKE_' | ssh -i "$files/key" -o IdentitiesOnly=yes -o BatchMode=yes \
    -o UserKnownHostsFile="$files/known_hosts" -o StrictHostKeyChecking=yes "$DEPLOY_TARGET" \
    "cd '$folder' && (umask 077 && mkdir -p .secrets && cat >.secrets/smoke.new &&
     if [ -s .secrets/smoke.new ]; then mv .secrets/smoke.new .secrets/smoke; else rm .secrets/smoke.new; fi) &&
     git fetch --quiet origin && git checkout --quiet --detach '$revision' &&
     log=\$(mktemp) && { nohup sh deploy/release.sh '$image' >\"\$log\" 2>&1 & release=\$!
       tail -f \"\$log\" & code=0; wait \$release || code=\$?
       sleep 1; kill \$!; rm \"\$log\"; exit \$code; }"
