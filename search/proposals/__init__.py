"""Proposes candidates until the checker accepts one.

Read `proposer.py` first, then `sampler.py`.
A new sampler is one file here, its entry in `sampler.py`, and its name in `StudySection`.
"""
