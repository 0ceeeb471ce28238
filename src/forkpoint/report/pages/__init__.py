"""What the page of each verb's run holds: one file a verb.

Each has FILES, those that a finished run must hold with its summary first, and `page(summary, run)`: without a run, as
for the results that a function returned, a page leaves out what stands in the run's other files.
"""
