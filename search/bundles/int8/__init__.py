"""A network in int8, for microcontrollers: made by `export --int8`, proved by `verify`.

Read `making.py` first, then `part.py`; `conversion.py` runs in a process of its own.
A new format is a function from network and images to bytes, and its entry in both.
"""
