"""What the page of each verb's run holds: one file a verb, from the run's files to a `Page`."""
