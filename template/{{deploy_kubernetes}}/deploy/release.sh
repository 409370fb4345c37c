#!/bin/sh
# Deploys an image to the cluster of kubectl's context, or rolls back to the previous version:
#   sh deploy/release.sh production registry/name@sha256:...
#   sh deploy/release.sh production --back
# RELEASE_TIMEOUT: seconds until each process is ready (900: a canary takes about 480).
# RELEASE_POLL: seconds between polls (5). SMOKE_URL: the address that the smoke test calls, by default
# that of the route; none: there is no smoke test.
set -eu
cd "$(dirname "$0")/kubernetes"
timeout=${RELEASE_TIMEOUT:-900}
overlay=${1:-}
wanted=${2:-}

say() {
    echo "release: $*" >&2
}

k() {
    kubectl --namespace "$namespace" "$@"
}

# The overlay, with the image's digest in the place of its name.
render() {
    cat >"$files/kustomization.yaml" <<END
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../overlays/$overlay]
images: [{name: service, newName: "${wanted%@*}", digest: "${wanted#*@}"}]
END
    kubectl kustomize "$files" >"$files/all.yaml"
}

apply() {
    k apply --filename "$files/all.yaml" --selector "$1"
}

# Run the migrations and the checks in the cluster, and show their log.
migrate() {
    if [ -n "$(k get job migrate --ignore-not-found --output 'jsonpath={.status.active}')" ]; then
        say "a migration is running: wait for the release that started it"
        return 1
    fi
    k delete job migrate --ignore-not-found --wait
    apply app.kubernetes.io/component=migrate
    ended=
    failures=0
    while [ -z "$ended" ]; do
        sleep "${RELEASE_POLL:-5}"
        if conditions=$(k get job migrate --output 'jsonpath={.status.conditions[?(@.status=="True")].type}'); then
            failures=0
            ended=$(echo "$conditions" | grep -Eow 'Complete|Failed' || true)
        else
            failures=$((failures + 1))
            [ "$failures" -lt 12 ] || { say "the cluster does not say what became of the migration"; return 1; }
        fi
    done
    k logs job/migrate --tail=-1 || say "the migration left no log"
    [ "$ended" = Complete ]
}

revisions() {
    k get deployments --output \
        'jsonpath={range .items[*]}{.metadata.name} {.metadata.annotations.deployment\.kubernetes\.io/revision}{"\n"}{end}'
}

# Wait until every process runs the version applied last.
wait_until_ready() {
    for name in $(revisions | cut -d ' ' -f 1); do
        k rollout status "deployment/$name" --timeout "${timeout}s" || return 1
    done
    if grep -q '^kind: Rollout$' "$files/all.yaml"; then
        wait_for_canary
    fi
}

# The canary's status is current once it has observed the Deployment applied last.
wait_for_canary() {
    left=$timeout
    while [ "$left" -gt 0 ]; do
        applied=$(k get deployment api --output 'jsonpath={.metadata.generation}')
        state=$(k get rollout api --output 'jsonpath={.status.workloadObservedGeneration} {.status.phase}')
        case $state in
        "$applied Healthy") return 0 ;;
        "$applied Degraded") return 1 ;;
        esac
        sleep "${RELEASE_POLL:-5}"
        left=$((left - 5))
    done
    return 1
}

# Call the API from outside.
smoke() {
    address=${SMOKE_URL:-https://$(sed -n '/^  hostnames:/{n;s/^ *- *//p;}' "$files/all.yaml")}
    [ "$address" = none ] || sh ../smoke.sh "$address"
}

# Show why it is not ready: the canary's reason, warnings, the last log lines of pods that are not ready.
explain() {
    if grep -q '^kind: Rollout$' "$files/all.yaml"; then
        k get rollout api --output 'jsonpath={.status.phase}: {.status.message}{"\n"}' || true
        k get analysisruns --sort-by .metadata.creationTimestamp --output \
            'jsonpath={range .items[-1:].status.metricResults[*]}{.name}: {.phase} {.message}{"\n"}{end}' || true
    fi
    k get pods --output wide || true
    k get events --field-selector type=Warning --sort-by .lastTimestamp | tail -n 20 || true
    for pod in $(k get pods --output \
        'jsonpath={range .items[?(@.status.containerStatuses[0].ready==false)]}{.metadata.name} {end}'); do
        say "$pod says:"
        k logs "$pod" --tail 30 --previous 2>/dev/null || k logs "$pod" --tail 30 || true
    done
} >&2

# Roll each Deployment back; one that was not changed stays as it is. Fails if one could not be, after all others.
restore() {
    undone=true
    while read -r name revision; do
        k rollout undo "deployment/$name" --to-revision "$revision" || undone=false
    done <"$files/before"
    [ "$undone" = true ]
}

release() {
    apply '!app.kubernetes.io/component' # settings, network, accounts: no pod uses the new ones yet
    if ! migrate; then
        say "the migrations or the checks failed, so nothing was changed"
        return 1
    fi
    if apply 'app.kubernetes.io/component,app.kubernetes.io/component!=migrate' && wait_until_ready && smoke; then
        say "$wanted serves $overlay"
        return 0
    fi
    say "$wanted did not get ready, or failed the smoke test:"
    explain
    if [ ! -s "$files/before" ]; then
        say "there is no version before it to go back to"
    elif restore && wait_until_ready; then
        say "the version before it serves again"
    else
        say "the version before it did not come back either"
    fi
    return 1
}

back() {
    [ -s "$files/before" ] || { say "nothing was released yet"; return 1; }
    undone=true
    while read -r name revision; do
        if [ "$revision" = 1 ]; then
            say "$name is new: it stays"
        else
            k rollout undo "deployment/$name" || undone=false
        fi
    done <"$files/before"
    if [ "$undone" = false ] || ! wait_until_ready; then
        say "the version before it did not get ready:"
        explain
        return 1
    fi
    say "the version before it serves $overlay"
}

if [ -z "$overlay" ] || [ ! -f "overlays/$overlay/kustomization.yaml" ]; then
    say "say where to, one of $(cd overlays && echo *): sh deploy/release.sh production IMAGE"
    exit 2
fi
namespace=$(sed -n 's/^namespace: *//p' "overlays/$overlay/kustomization.yaml")
files=$(mktemp -d ./release.XXXXXX)
trap 'rm -rf "$files"' EXIT

case $wanted in
--back)
    kubectl kustomize "overlays/$overlay" >"$files/all.yaml"
    revisions >"$files/before"
    back
    ;;
*@sha256:*)
    render
    revisions >"$files/before"
    release
    ;;
*)
    say "say which image, by its digest: registry/name@sha256:..., as CI and \`docker push\` print it"
    exit 2
    ;;
esac
