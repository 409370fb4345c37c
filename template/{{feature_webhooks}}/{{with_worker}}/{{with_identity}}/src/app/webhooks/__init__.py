"""Subscriptions of callers to webhooks."""
