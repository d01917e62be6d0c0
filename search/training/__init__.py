"""Trains one network and measures it.

Read `training.py` first.
A new key of the recipe goes to the file whose step it changes.
"""
