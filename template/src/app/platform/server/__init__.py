"""The API's processes: the Gunicorn worker, the HTTP protocol, connection limits, ``app check``."""
