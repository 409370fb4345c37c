#!/bin/sh
# Deploys an image to a cluster from a pipeline:
#   DEPLOY_TARGET=production DEPLOY_KUBECONFIG=... sh deploy/ci.sh registry/name@sha256:...
# DEPLOY_TARGET: a folder of deploy/kubernetes/overlays. DEPLOY_KUBECONFIG: the content
# of a kubeconfig file.
set -eu
image=${1:?say which image: sh deploy/ci.sh registry/name@sha256:...}
: "${DEPLOY_TARGET:?is not set: it would be production or staging}"
: "${DEPLOY_KUBECONFIG:?is not set: it would be the content of a kubeconfig file}"

umask 077
KUBECONFIG=$(mktemp)
export KUBECONFIG
trap 'rm -f "$KUBECONFIG"' EXIT
printf '%s\n' "$DEPLOY_KUBECONFIG" >"$KUBECONFIG"
unset DEPLOY_KUBECONFIG
sh "$(dirname "$0")/release.sh" "$DEPLOY_TARGET" "$image"
