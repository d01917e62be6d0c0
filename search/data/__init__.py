"""Images: where they come from, how they are augmented and normalized.

Read `datasets.py` first.
A new data set is one reader there.
"""
