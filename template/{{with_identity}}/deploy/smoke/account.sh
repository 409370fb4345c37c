# The API knows the caller.
request GET /api/v1/auth/me 200
