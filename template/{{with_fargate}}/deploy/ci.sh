#!/bin/sh
# Deploys an image to AWS: migrations, then the new version; rolled back on failure.
#   DEPLOY_TARGET=<stack> AWS_REGION=... sh deploy/ci.sh registry/name@sha256:...
#   ... sh deploy/ci.sh --back registry/name@sha256:...    to a version before, without migrations
# Credentials: those of `aws`; an access key, or preferably AWS_ROLE_ARN and
# AWS_WEB_IDENTITY_TOKEN_FILE. deploy/parameters has the stack's parameters, one Name=Value per
# line; DEPLOY_PARAMETERS names another file. RELEASE_TIMEOUT: seconds until ready. An image of another registry needs Docker 27 or later,
# logged in there unless the image is public.
set -eu
cd "$(dirname "$0")/.."

say() {
    echo "deploy: $*" >&2
}

back=false traffic=Gradual
[ "${1:-}" = --back ] && back=true traffic=AllAtOnce && shift
image=${1:?say which image: sh deploy/ci.sh registry/name@sha256:...}
: "${DEPLOY_TARGET:?is not set: it would be the name of the stack}"
: "${AWS_REGION:?is not set: it would be where the stack is, such as eu-west-1}"
export AWS_PAGER=
parameters=${DEPLOY_PARAMETERS:-deploy/parameters}
[ -f "$parameters" ] || { say "$parameters is missing: docs/deploy.md says what is in it"; exit 2; }

error=$(mktemp)
trap 'rm -f "$error"' EXIT

# Query the stack, which may not exist yet. Fails where AWS does not answer.
of_stack() {
    if found=$(aws cloudformation describe-stacks --stack-name "$DEPLOY_TARGET" --output text --query "$1" 2>"$error"); then
        [ "$found" = None ] || echo "$found"
    elif ! grep -q 'does not exist' "$error"; then
        cat "$error" >&2
        return 1
    fi
}

output() {
    of_stack "Stacks[0].Outputs[?OutputKey=='$1'].OutputValue | [0]"
}

# Update the stack, and wait. Parameters that are not named keep their values; AWS rolls back failures.
change() {
    while IFS= read -r line || [ -n "$line" ]; do
        case $line in '' | '#'*) ;; *) set -- "$@" "$line" ;; esac
    done <"$parameters"
    aws cloudformation deploy --stack-name "$DEPLOY_TARGET" --template-file deploy/stack.yaml \
        --capabilities CAPABILITY_IAM CAPABILITY_AUTO_EXPAND --no-fail-on-empty-changeset \
        --parameter-overrides "$@" && return
    say "AWS refused, and went back to what was before. It says:"
    aws cloudformation describe-stack-events --stack-name "$DEPLOY_TARGET" --max-items 100 --output text \
        --query "StackEvents[?ends_with(ResourceStatus, 'FAILED')].[LogicalResourceId, ResourceStatusReason]" >&2
    return 1
}

# Copy the image to ECR, for one platform of a multi-platform image.
in_ecr() {
    case $1 in
    *.dkr.ecr.*) echo "$1"; return ;;
    *@sha256:*) ;;
    *) say "say which image by its digest: registry/name@sha256:..."; exit 2 ;;
    esac
    account=$(aws sts get-caller-identity --query Account --output text)
    name=$(sed -n 's/^Repository=//p' "$parameters")
    registry="$account.dkr.ecr.$AWS_REGION.amazonaws.com"
    tag=${1##*:}
    copy="$registry/${name:?$parameters has no line Repository=...}:$tag"
    # A tag cannot be pushed twice where tags are immutable.
    if ! aws ecr describe-images --repository-name "$name" --image-ids "imageTag=$tag" >/dev/null 2>&1; then
        platform=${DEPLOY_PLATFORM:-linux/amd64}
        aws ecr get-login-password | docker login --username AWS --password-stdin "$registry" >&2
        docker pull --quiet --platform "$platform" "$1" >&2 || {
            say "$1 can't be read: log in with \`docker login ${1%%/*}\`"
            exit 1
        }
        docker tag "$1" "$copy"
        docker push --quiet --platform "$platform" "$copy" >&2
    fi
    echo "$copy"
}

migrate() {
    network="awsvpcConfiguration={subnets=[$(output Subnets)],securityGroups=[$(output Security)],assignPublicIp=DISABLED}"
    task=$(aws ecs run-task --cluster "$(output Cluster)" --task-definition "$(output MigrationTask)" \
        --launch-type FARGATE --network-configuration "$network" --query 'tasks[0].taskArn' --output text)
    [ "${task:-None}" != None ] || { say "the task of the migrations could not be started"; return 1; }
    # `wait` times out after ten minutes; a data migration may take longer.
    for _ in 1 2 3 4 5 6; do
        aws ecs wait tasks-stopped --cluster "$(output Cluster)" --tasks "$task" && break
    done
    ended=$(aws ecs describe-tasks --cluster "$(output Cluster)" --tasks "$task" --output text \
        --query 'tasks[0].[containers[0].exitCode, stoppedReason]')
    aws logs get-log-events --log-group-name "$(output LogGroup)" --limit 50 --output text \
        --log-stream-name "migrate/migrate/${task##*/}" --query 'events[].[message]' >&2 || true
    case $ended in 0[!0-9]*) return ;; esac
    say "the migrations ended with: $ended"
    return 1
}

# Request readiness from outside, as clients do.
ready() {
    url=$(output Url)
    until=$(($(date +%s) + ${RELEASE_TIMEOUT:-120}))
    until curl --fail --silent --show-error --max-time 5 --output /dev/null "$url/health/ready"; do
        [ "$(date +%s)" -lt "$until" ] || return 1
        sleep 2
    done
}

serving=$(of_stack "Stacks[0].Parameters[?ParameterKey=='Image'].ParameterValue | [0]")
image=$(in_ecr "$image")
if [ "$back" = false ]; then
    if ! change "MigrationImage=$image" || ! migrate; then
        say "the migrations failed, so nothing else was changed: ${serving:-nothing} serves"
        exit 1
    fi
fi
change "Image=$image" "TrafficShift=$traffic" || { say "$image did not get ready: ${serving:-nothing} serves"; exit 1; }
if ! ready || ! sh deploy/smoke.sh "$url"; then
    say "$image is there, but $(output Url)/health/ready does not answer with 200, or the smoke test failed"
    [ -n "$serving" ] || exit 1
    change "Image=$serving" TrafficShift=AllAtOnce || { say "$serving did not come back either"; exit 1; }
    say "$serving serves again"
    exit 1
fi
say "$image serves"
