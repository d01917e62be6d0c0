"""Trackers: a study's trials in the tools that people watch their other trainings with.

Read `tracker.py` first.
A new one is a class in a file beside `tensorboard.py`, and an entry in `named.py`.
"""
