"""Proposes candidates until the checker accepts one.

Read `proposer.py` first, then `sampler.py`.
A new sampler is one class in a file here, and its name in `SAMPLERS` in `sampler.py`.
"""
