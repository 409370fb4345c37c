#!/bin/sh
# Deploys an image to Cloud Run: migrations, then the new version; rolled back on failure.
#   DEPLOY_TARGET=<service> sh deploy/ci.sh registry/name@sha256:...
#   DEPLOY_TARGET=<service> sh deploy/ci.sh --back registry/name@sha256:...   without migrations
# Credentials: those of `gcloud`, or GOOGLE_TOKEN_FILE in a pipeline. deploy/parameters has the other
# values of deploy/run.yaml, one NAME=value per line; DEPLOY_PARAMETERS names another file. RELEASE_TIMEOUT: seconds until ready. An image of
# another registry needs Docker, logged in there unless the image is public.
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

# Fill in the documents for an image, one file each.
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
    } >"$files/values"
    sed -f "$files/values" deploy/run.yaml |
        awk -v folder="$files" 'BEGIN { n = 1 } /^---$/ { n++; next } { print > (folder "/" n ".yaml") }'
}

# Apply the documents of the service and the worker pools.
replace() {
    for file in "$files"/*.yaml; do
        case $(sed -n 's/^kind: //p' "$file") in
        Service) gcloud run services replace "$file" || return 1 ;;
        WorkerPool) gcloud run worker-pools replace "$file" || return 1 ;;
        esac
    done
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

# Request readiness from outside, as clients do.
ready() {
    url=$(gcloud run services describe "$DEPLOY_TARGET" --format 'value(status.url)')
    until=$(($(date +%s) + ${RELEASE_TIMEOUT:-120}))
    until curl --fail --silent --show-error --max-time 5 --output /dev/null "$url/health/ready"; do
        [ "$(date +%s)" -lt "$until" ] || return 1
        sleep 2
    done
}

undo() {
    say "$image did not get ready: $1"
    [ -n "$serving" ] || exit 1
    documents "$serving"
    replace || { say "$serving did not come back either"; exit 1; }
    say "$serving serves again"
    exit 1
}

serving=$(gcloud run services describe "$DEPLOY_TARGET" \
    --format 'value(spec.template.spec.containers[0].image)' 2>/dev/null || true)
image=$(in_artifact_registry "$image")
documents "$image"
if [ "$back" = false ] && ! migrate; then
    say "the migrations failed, so nothing else was changed: ${serving:-nothing} serves"
    exit 1
fi
replace || undo "Cloud Run says why, above"
ready || undo "/health/ready does not answer with 200"
sh deploy/smoke.sh "$url" || undo "the smoke test failed"
say "$image serves"
