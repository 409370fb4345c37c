#!/bin/sh
# Puts an image on the shelf: sh deploy/ci.sh registry/name:tag
set -eu
echo "${1:?say which image}" >>"${SHELF:-shelf}"
