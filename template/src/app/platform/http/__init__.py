"""Incoming HTTP: middleware, problem details, rate limits, health, OpenAPI, pagination."""
