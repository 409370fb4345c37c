#!/bin/sh
# Pushes the branch UPDATE_BRANCH, unless somebody has worked on the one that is there:
#   sh .ci/push-update.sh REMOTE [OPTION OF GIT PUSH ...]
set -eu
remote=$1
shift
branch=${UPDATE_BRANCH:-template-update}
there=$(git ls-remote "$remote" "refs/heads/$branch" | cut -f 1)
if [ -n "$there" ]; then
    git fetch --quiet "$remote" "$there"
    # A commit that was amended or rebased has a later date than its author's.
    if [ "$(git log -1 --format='%s %at' "$there")" != "Update from the template $(git log -1 --format=%ct "$there")" ]; then
        echo "Somebody has worked on $branch, so it stays as it is. Merge or delete it; the next update starts anew."
        exit 0
    fi
fi
git push --quiet --force-with-lease="$branch:$there" "$@" "$remote" "$branch"
