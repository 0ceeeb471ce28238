"""Engines in many copies: replicas of any engine over a Ray cluster.

In: the settings of one engine, requests or sequences. Out: what that engine gives, in order. Schedules nothing itself.
"""
