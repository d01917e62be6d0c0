"""Networks as data, as modules and as source code.

Read `architecture.py` first.
A new operator is one entry of `operators.py`; checker, module and source read its layers.
"""
