"""The base of every other level: errors, request context, components, signatures."""
