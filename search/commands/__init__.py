"""What each command does; each answers with its exit code.

Read `studies.py` first: launch, worker, status, list, delete, dashboard.
A new command is a function here and its options in `run_study.py`, which holds no logic.
"""
