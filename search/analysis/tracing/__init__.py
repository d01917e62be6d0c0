"""Any `nn.Module` as a graph, from the operations that it runs.

Read `trace.py` first; `layout.py` says what the dimensions of a tensor hold.
A new operation is one function under `@handles` in the file of its way of reading.
"""
