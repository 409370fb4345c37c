"""Items: the example feature. It shows each pattern once.

To remove it, delete this folder, ``tests/items``, its migrations and its lines in ``api.py``.
"""
