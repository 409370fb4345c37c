"""The load balancer's metrics of requests, which it has from outside of the service."""

_OF = "{ Namespace: AWS/ApplicationELB, MetricName: %s, Dimensions: [%s] }"
_LOAD_BALANCER = "{ Name: LoadBalancer, Value: !Ref LoadBalancer }"
PARAMETER = "LoadBalancer: { Type: String, Description: Its name in CloudWatch }"
METRICS = {
    "answered": _OF % ("RequestCount", _LOAD_BALANCER),  # without those that found no target
    "failed": _OF % ("HTTPCode_Target_5XX_Count", _LOAD_BALANCER),
    "refused": _OF % ("HTTPCode_ELB_5XX_Count", _LOAD_BALANCER),
}
RESPONSE_TIME = _OF % ("TargetResponseTime", _LOAD_BALANCER)
UNIT = 1  # per second
