"""Items: the example feature, with writes, reads, pages, ETags and a background job.

To remove it, delete this folder, ``tests/items``, its migrations and its lines in ``api.py``.
"""
