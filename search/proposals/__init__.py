"""Proposes candidates until the checker accepts one.

Read `proposer.py` first, then `sampler.py`.
A new sampler is one file here and its entry in `sampler.py`.
"""
