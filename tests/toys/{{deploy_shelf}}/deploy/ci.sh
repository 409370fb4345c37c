#!/bin/sh
# Puts an image on the shelf DEPLOY_TARGET: sh deploy/ci.sh registry/name:tag
set -eu
echo "${1:?say which image}" >>"${DEPLOY_TARGET:-shelf}"
