"""The processes of a study: one runs trials, one looks after the others, or a cluster does.

Read `objective.py` first, then `watch.py`, `guarded.py` and `worker.py`.
A new way to start workers is a file beside `cluster.py` that answers with the same `Ending`.
"""
