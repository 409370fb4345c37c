#!/bin/sh
# Applies a newer version of the template as one commit on the branch template-update, if there is
# one. Conflicts are marked in the files and listed in the message; CI fails until they are resolved.
# With UPDATE_TOKEN the pipeline opens a pull request (docs/ci.md).
set -eu
cd "$(dirname "$0")/.."

copier() {
    uvx --quiet --with 'copier-template-extensions>=0.3.4' --from 'copier>=9.19.1' copier "$@"
}

code=0
copier check-update --quiet || code=$?
case $code in
0) echo "There is no newer version." && exit 0 ;;
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
