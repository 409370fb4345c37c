"""Items: the example feature. It shows each pattern once.

To remove it, delete this folder, ``tests/items``, its migration and its line in ``api.py``.
"""
