"""Networks as data, as modules and as source code.

Read `architecture.py` first.
A new operator is a function and one entry of `OPERATORS` in `operators.py`; a test adds one.
"""
