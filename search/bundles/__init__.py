"""An exported winner: written, reported, proved again.

Read `export.py` first, then `verify.py`.
A new part is one class in `parts/`, which writes itself and verifies itself.
"""
