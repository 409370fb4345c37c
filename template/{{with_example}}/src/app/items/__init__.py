"""The example feature: things that belong to somebody. It shows each pattern once.

Delete this folder, ``tests/items``, its migration and its line in ``api.py``, and it is gone.
"""
