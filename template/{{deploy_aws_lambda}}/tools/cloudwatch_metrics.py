"""The HTTP API's metrics of requests; a function that crashes is a 5xx there."""

_API = "[{ Name: ApiId, Value: !Ref Api }]"
_OF = f"{{ Namespace: AWS/ApiGateway, MetricName: %s, Dimensions: {_API} }}"
PARAMETER = "Api: { Type: String, Description: The id of the HTTP API }"
METRICS = {
    "answered": _OF % "Count",
    "failed": _OF % "5xx",
}
RESPONSE_TIME = _OF % "Latency"
UNIT = 1000  # per second
