"""Simulates a run: students, teachers, credits, prefetch, stragglers, failures and saves.

`simulate` (run.py) answers how long a run takes. It runs two models. The step model (steps.py)
follows every request for some tens of steps and gives the time of a step for each number of
teachers. The run model (launches.py) follows whole steps, saves, failures and restarts.
"""
