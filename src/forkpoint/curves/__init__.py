"""Success curves: for every token of a trajectory, the probability that the response still comes out right.

In: graded trajectories and the engine that continues them. Out: a curve with intervals, the critical token, and what
another token there would have brought. Does not know where trajectories come from, nor what is trained on the result.
"""
