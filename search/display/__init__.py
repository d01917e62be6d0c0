"""What people see: words, tables, terminal, notebook, figures, dashboard.

Read `wording.py` first.
A new view draws the same tables.
"""
