"""Which tokens decide: trajectories, the fork estimator, the paper's protocol, replacement, and contrast."""
