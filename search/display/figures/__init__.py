"""The figures of reports and dashboard, drawn by matplotlib.

Read `style.py` first.
A new figure is one function that answers with a `Figure`.
"""
