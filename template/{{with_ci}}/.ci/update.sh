#!/bin/sh
# Brings in what the template has newer, as one commit on the branch template-update; makes no branch
# when there is nothing. Conflicts are in the commit, marked and listed: CI refuses them until they
# are resolved. With UPDATE_TOKEN the pipeline makes a pull request of the branch (docs/ci.md).
set -eu
cd "$(dirname "$0")/.."

copier() {
    uvx --quiet --with 'copier-template-extensions>=0.3.4' --from 'copier>=9.19.1' copier "$@"
}

code=0
copier check-update --quiet || code=$?
case $code in
0) echo "There is nothing newer." && exit 0 ;;
2) ;;
*) exit "$code" ;;
esac

said=$(mktemp)
trap 'rm -f "$said"' EXIT
git switch --quiet --force-create template-update
copier update --trust --defaults >"$said" 2>&1 || { cat "$said" >&2; exit 1; }
cat "$said"
git add --all
{
    echo "Update from the template"
    echo
    sed -n '/^You /,$p' "$said"
} | git commit --quiet --file -
