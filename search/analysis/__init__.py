"""What a network is, by arithmetic: receptive field, size, structure, advice; no torch.

Read `reach.py` first, then `graph.py`; `chains.py` and `facts.py` are the fast way for samplers.
A new fact is a property of `facts.Facts` and of `table.Analysis`, which limits ask.
"""
