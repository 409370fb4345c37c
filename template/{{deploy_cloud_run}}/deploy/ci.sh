#!/bin/sh
# Deploys an image to Cloud Run: migrations, then a tenth of the requests, then all; rolled back on failure.
#   DEPLOY_TARGET=<service> sh deploy/ci.sh registry/name@sha256:...
#   DEPLOY_TARGET=<service> sh deploy/ci.sh --back registry/name@sha256:...   without migrations
# Credentials: those of `gcloud`, or GOOGLE_TOKEN_FILE in a pipeline. deploy/parameters has the other
# values of deploy/run.yaml, one NAME=value per line; DEPLOY_PARAMETERS names another file. RELEASE_TIMEOUT: seconds until ready (120).
# CANARY_SECONDS: how long the new version has a tenth of the requests (300); 0: all at once. RELEASE_POLL: seconds
# between two looks at them (15). An image of another registry needs Docker, logged in there unless the image is public.
set -eu
cd "$(dirname "$0")/.."

say() {
    echo "deploy: $*" >&2
}

[ "${1:-}" = --back ] && back=true && shift || back=false
image=${1:?say which image: sh deploy/ci.sh registry/name@sha256:...}
: "${DEPLOY_TARGET:?is not set: it would be the name of the service}"
parameters=${DEPLOY_PARAMETERS:-deploy/parameters}
[ -f "$parameters" ] || { say "$parameters is missing: docs/deploy.md says what is in it"; exit 2; }

parameter() {
    value=$(sed -n "s/^$1=//p" "$parameters")
    echo "${value:?$parameters has no line $1=...}"
}

project=$(parameter PROJECT) || exit 2
region=$(parameter REGION) || exit 2
export CLOUDSDK_CORE_PROJECT="$project" CLOUDSDK_RUN_REGION="$region" CLOUDSDK_CORE_DISABLE_PROMPTS=1
files=$(mktemp -d)
credentials=$(mktemp)
trap 'rm -rf "$files" "$credentials"' EXIT

# Exchange a pipeline's token for short-lived credentials (workload identity federation).
if [ -n "${GOOGLE_TOKEN_FILE:-}" ]; then
    gcloud iam workload-identity-pools create-cred-config \
        "${GOOGLE_IDENTITY_PROVIDER:?is not set: it would be projects/.../providers/...}" \
        --service-account "${GOOGLE_SERVICE_ACCOUNT:?is not set: it would be the account that deploys}" \
        --credential-source-file "$GOOGLE_TOKEN_FILE" --output-file "$credentials" >&2
    export CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE="$credentials"
fi

# Fill in the documents for an image, one file each. With a revision, that one keeps all requests, and
# the new one has an address of its own.
documents() {
    rm -f "$files"/*
    {
        echo "s|\${IMAGE}|$1|g"
        echo "s|\${SERVICE}|$DEPLOY_TARGET|g"
        environment=$(sed -n 's/^ENVIRONMENT=//p' "$parameters")
        echo "s|\${ENVIRONMENT}|${environment:-production}|g"
        for name in ACCOUNT NETWORK SUBNETWORK DOMAIN; do
            value=$(parameter $name) || exit 2
            echo "s|\${$name}|$value|g"
        done
        [ -z "${2:-}" ] ||
            echo "s|^  traffic:.*|  traffic: [{revisionName: $2, percent: 100}, {latestRevision: true, tag: next}]|"
    } >"$files/values"
    sed -f "$files/values" deploy/run.yaml |
        awk -v folder="$files" 'BEGIN { n = 1 } /^---$/ { n++; next } { print > (folder "/" n ".yaml") }'
}

# Apply the documents of the service and the worker pools; of one kind, if it is named.
replace() {
    for file in "$files"/*.yaml; do
        kind=$(sed -n 's/^kind: //p' "$file")
        case ${1:-$kind}:$kind in
        Service:Service) gcloud run services replace "$file" || return 1 ;;
        WorkerPool:WorkerPool) gcloud run worker-pools replace "$file" || return 1 ;;
        esac
    done
}

of_service() {
    gcloud run services describe "$DEPLOY_TARGET" "$@"
}

migrate() {
    gcloud run jobs replace "$files/1.yaml" && gcloud run jobs execute "$DEPLOY_TARGET-migrate" --wait && return
    gcloud logging read "resource.type=cloud_run_job AND resource.labels.job_name=$DEPLOY_TARGET-migrate" \
        --limit 50 --order asc --freshness 1h --format 'value(textPayload, jsonPayload.event)' >&2 || true
    return 1
}

# Cloud Run pulls from Artifact Registry only.
in_artifact_registry() {
    case $1 in
    *-docker.pkg.dev/*) echo "$1"; return ;;
    *@sha256:*) ;;
    *) say "say which image by its digest: registry/name@sha256:..."; exit 2 ;;
    esac
    repository=$(parameter REPOSITORY)
    copy="$repository/$DEPLOY_TARGET:${1##*:}"
    # A tag cannot be pushed twice where tags are immutable.
    if ! gcloud artifacts docker images describe "$copy" >/dev/null 2>&1; then
        gcloud auth print-access-token |
            docker login --username oauth2accesstoken --password-stdin "https://${repository%%/*}" >&2
        docker pull --quiet --platform linux/amd64 "$1" >&2 || {
            say "$1 can't be read: log in with \`docker login ${1%%/*}\`"
            exit 1
        }
        docker tag "$1" "$copy"
        docker push --quiet "$copy" >&2
    fi
    echo "$copy"
}

# Request readiness from outside, as clients do; with a tag, from the revision that has it.
ready() {
    url=$(of_service --format 'value(status.url)')
    url=https://${1:+$1---}${url#https://}
    until=$(($(date +%s) + ${RELEASE_TIMEOUT:-120}))
    until curl --fail --silent --show-error --max-time 5 --output /dev/null "$url/health/ready"; do
        [ "$(date +%s)" -lt "$until" ] || return 1
        sleep 2
    done
}

# Fail if the new version answers ten requests with 5xx while it has a tenth of them.
canary() {
    gcloud run services update-traffic "$DEPLOY_TARGET" --to-tags next=10 || return 1
    revision=$(of_service --format 'value(status.latestCreatedRevisionName)')
    left=${CANARY_SECONDS:-300}
    while [ "$left" -gt 0 ]; do
        sleep "${RELEASE_POLL:-15}"
        left=$((left - 15))
        failed=$(gcloud logging read "resource.type=cloud_run_revision AND resource.labels.revision_name=$revision \
            AND httpRequest.status>=500" --limit 10 --freshness 1h --format 'value(insertId)') || return 1
        [ "$(echo "$failed" | grep -c .)" -lt 10 ] || return 1
    done
}

# Move all requests back at once, and then what the documents describe.
undo() {
    say "$image did not get ready: $1"
    [ -n "$serving" ] || exit 1
    gcloud run services update-traffic "$DEPLOY_TARGET" --to-revisions "$before=100" || true
    documents "$serving"
    replace || { say "$serving did not come back either"; exit 1; }
    say "$serving serves again"
    exit 1
}

# What serves, if anything does. Without an answer this ends here: there would be nothing to go back to.
before='' serving=''
exists=$(gcloud run services list --region "$region" --filter "metadata.name=$DEPLOY_TARGET" --format 'value(metadata.name)')
if [ -n "$exists" ]; then
    # The revision that has most of the requests, whatever a release that was interrupted left behind.
    traffic=$(of_service --flatten 'status.traffic[]' --format 'value(status.traffic.percent,status.traffic.revisionName)')
    before=$(echo "$traffic" | sort -rn | sed -n '1s/.*[[:space:]]//p')
    [ -z "$before" ] ||
        serving=$(gcloud run revisions describe "$before" --format 'value(spec.containers[0].image)')
fi
image=$(in_artifact_registry "$image")
documents "$image"
if [ "$back" = false ]; then
    if ! migrate; then
        say "the migrations failed, so nothing else was changed: ${serving:-nothing} serves"
        exit 1
    fi
    if [ -n "$serving" ] && [ "${CANARY_SECONDS:-300}" -gt 0 ]; then
        documents "$image" "$before"
        replace Service || undo "Cloud Run says why, above"
        ready next || undo "/health/ready of its own address does not answer with 200"
        sh deploy/smoke.sh "$url" || undo "the smoke test of its own address failed"
        canary || undo "too many of its first requests failed"
        documents "$image"
    fi
fi
replace || undo "Cloud Run says why, above"
ready || undo "/health/ready does not answer with 200"
sh deploy/smoke.sh "$url" || undo "the smoke test failed"
say "$image serves"
