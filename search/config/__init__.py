"""Study files: their sections, candidates, and how files are read.

Read `sections.py` first.
A new key is one field of a section; a recipe's is also a field of `candidate.Recipe`.
"""
