"""A study's database: where it is, how it survives, what a trial carries.

Read `studies.py` first, then `database.py`.
What a trial carries is a field in `trials.py` and nowhere else.
"""
