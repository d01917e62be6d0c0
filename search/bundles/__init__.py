"""An exported winner: written, reported, proved again.

Read `export.py` first, then `verify.py`.
A new part: `files.py` writes and names it, one entry of `Proof.looks` in `proof.py` proves it.
"""
