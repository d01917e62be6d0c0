"""An exported winner: written, reported, proved again.

Read `export.py` first, then `verify.py`.
A new part: `files.py` names and writes it, `_write` in `export.py` calls that, one entry of
`Proof.looks` in `proof.py` proves it.
"""
