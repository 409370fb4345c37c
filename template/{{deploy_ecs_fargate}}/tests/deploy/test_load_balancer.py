"""The load balancer and the service agree on ports, paths and times."""

import httpx2

from app.settings import Settings
from tests.deploy import stack
from tests.deploy.stack import containers, environment, of_gunicorn, resources
from tests.timeouts import rows

DEFAULTS = Settings.model_fields
GROUPS = resources("AWS::ElasticLoadBalancingV2::TargetGroup")
TARGETS = GROUPS["Targets"]
[BALANCER] = resources("AWS::ElasticLoadBalancingV2::LoadBalancer").values()
[API] = [s for s in resources("AWS::ECS::Service").values() if "LoadBalancers" in s]


def attribute(owner: dict[str, list[dict[str, str]]], list_: str, key: str) -> int:
    return next(int(each["Value"]) for each in owner[list_] if each["Key"] == key)


def test_the_port_is_the_services_and_metrics_have_another() -> None:
    port = DEFAULTS["port"].default
    assert TARGETS["Port"] == port
    assert [each["ContainerPort"] for each in API["LoadBalancers"]] == [port]
    api = containers()["api"]
    assert [each["ContainerPort"] for each in api["PortMappings"]] == [port]
    assert environment(api)["METRICS_PORT"] != str(port)


def test_a_new_version_gets_a_tenth_of_the_requests_and_a_rollback_all_at_once() -> None:
    deployment = API["DeploymentConfiguration"]
    assert deployment["Strategy"] == "CANARY"
    assert deployment["CanaryConfiguration"] == {
        "CanaryPercent": 10,
        "CanaryBakeTimeInMinutes": ["AllAtOnce", 0, 5],
    }
    assert stack.PARAMETERS["TrafficShift"]["Default"] == "Gradual"
    assert stack.STACK["Conditions"]["AllAtOnce"] == ["!Ref TrafficShift", "AllAtOnce"]


def test_failed_requests_of_either_version_move_all_back() -> None:
    alarms = API["DeploymentConfiguration"]["Alarms"]
    assert alarms == {"AlarmNames": ["!Ref Failures"], "Enable": True, "Rollback": True}
    alarm = resources("AWS::CloudWatch::Alarm")["Failures"]
    # A dimension more would see one target group alone, which is the new version's in turns.
    assert [each["Name"] for each in alarm["Dimensions"]] == ["LoadBalancer"]


def test_the_requests_are_shared_by_a_rule_between_two_equal_target_groups() -> None:
    [target] = API["LoadBalancers"]
    advanced = target["AdvancedConfiguration"]
    groups = [target["TargetGroupArn"], advanced["AlternateTargetGroupArn"]]
    assert groups == [f"!Ref {name}" for name in GROUPS]
    assert [*GROUPS.values()] == [TARGETS, TARGETS]
    [(name, rule)] = resources("AWS::ElasticLoadBalancingV2::ListenerRule").items()
    assert advanced["ProductionListenerRule"] == f"!Ref {name}"
    [action] = rule["Actions"]
    forward = action["ForwardConfig"]["TargetGroups"]
    assert [each["TargetGroupArn"] for each in forward] == groups
    assert [each["Weight"] for each in forward] == [100, 0]
    assert rule["Conditions"][0]["PathPatternConfig"] == {"Values": ["/*"]}


async def test_the_health_check_uses_an_existing_route(client: httpx2.AsyncClient) -> None:
    response = await client.get(TARGETS["HealthCheckPath"])
    assert response.status_code == 200
    assert "postgres" in response.json()["checks"]


def test_the_load_balancer_closes_idle_connections_first() -> None:
    idle = attribute(BALANCER, "LoadBalancerAttributes", "idle_timeout.timeout_seconds")
    assert DEFAULTS["request_timeout"].default < idle < of_gunicorn("keepalive")
    assert rows()["deploy/stack.yaml: idle_timeout"].seconds == idle


def test_deregistered_targets_finish_their_requests() -> None:
    name = "deregistration_delay.timeout_seconds"
    delay = attribute(TARGETS, "TargetGroupAttributes", name)
    assert DEFAULTS["request_timeout"].default < delay <= containers()["api"]["StopTimeout"]
    assert rows()["deploy/stack.yaml: deregistration_delay"].seconds == delay


def test_a_failover_of_postgres_replaces_no_task() -> None:
    # ECS replaces a task whose target is unhealthy, and a failover may take two minutes:
    # https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/Concepts.MultiAZ.Failover.html
    seconds = TARGETS["HealthCheckIntervalSeconds"] * TARGETS["UnhealthyThresholdCount"]
    assert seconds > 120


def test_the_defaults_fit_a_postgres_with_100_connections() -> None:
    variables = environment(containers()["api"])
    assert variables["MAX_REPLICAS"] == "!Ref ApiMax"
    tasks = stack.PARAMETERS["ApiMax"]["Default"]
    each = int(variables["WEB_CONCURRENCY"]) * int(variables["DB_POOL_SIZE"])
    during_a_release = API["DeploymentConfiguration"]["MaximumPercent"] / 100
    others = int(tasks * during_a_release) * each - tasks * each + stack.beside_the_api()
    # Startup checks the same sum, so the reserved connections must be neither too many nor too few.
    assert others <= int(variables["DB_RESERVED_CONNECTIONS"]) <= 100 - tasks * each
