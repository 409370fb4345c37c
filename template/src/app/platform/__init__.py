"""The platform: infrastructure, kept up to date by the template. Trust it unread.

Its levels import one way only; each may use those before it, and features stand on top of all:

    about           name, description and version of the service
    settings        every setting, typed and validated
    base            errors, request context, components, signatures
    observability   logs, metrics, tracing
    data            Postgres, Redis, outgoing HTTP, helpers for migrations
    http            request middleware, problem details, rate limits, health, OpenAPI
    jobs            background jobs and the transport of the chosen queue
    auth            callers, their credentials, and accounts where the service has them
    server          the Gunicorn worker, connection limits, ``app check``

``dev`` has the servers of development and ``app dev``; nothing in production imports it.
``.importlinter`` holds the levels; ``docs/platform.md`` lists what a feature may import.
"""
