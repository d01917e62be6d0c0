"""optuna-dashboard on a study: notes, plots and pictures kept fresh, requests guarded.

Read `refresh.py` first.
A new plot is one function in `plots.py`, a new picture one in `pictures.py`.
"""
