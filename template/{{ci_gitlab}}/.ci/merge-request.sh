#!/bin/sh
# Pushes the branch UPDATE_BRANCH and opens a merge request; without UPDATE_TOKEN, only reports it.
set -eu
git rev-parse --verify --quiet "${UPDATE_BRANCH:-template-update}" >/dev/null || exit 0
[ -n "${UPDATE_TOKEN:-}" ] || { echo "There is a newer version; set UPDATE_TOKEN to get a merge request."; exit 0; }
# A credential helper passes the token, so it is in no URL and no log.
# shellcheck disable=SC2016 # the helper's own shell expands it
git config credential.helper '!f() { echo username=update; echo "password=$UPDATE_TOKEN"; }; f'
sh "$(dirname "$0")/push-update.sh" "$CI_PROJECT_URL.git" \
    -o merge_request.create -o merge_request.target="$CI_DEFAULT_BRANCH"
