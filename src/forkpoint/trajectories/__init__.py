"""Trajectories: graded responses as token ids.

In: problems and an engine, or rows of a file. Out: trajectories, rows of JSON Lines, and journaled stages that a killed
run takes up again. Does not know what is done with a trajectory.
"""
