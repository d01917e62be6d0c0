"""The parts of a bundle, a class each: the files that it writes, and what proves them.

Read `part.py` first, then `weights.py`.
A new part is one class in a file here, and its line in `every.py`.
"""
