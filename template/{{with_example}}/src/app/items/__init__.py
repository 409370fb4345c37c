"""Items: the example feature, with writes, reads, pages, ETags and a background job.

The README says how to remove it.
"""
