"""Images: where they come from, how they are augmented and normalized.

Read `datasets.py` first.
A new data set is one class, a `Source` of `sources.py`, in a file that `datasets.py` imports.
"""
