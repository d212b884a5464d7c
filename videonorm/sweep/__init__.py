"""The trade of clip length T against batch size B: trainings are run, compared and reported.

An *arm* is what `norms:` names, a *shape* is T x stride, B, a further *axis* is an option of `fit` with
several values. A *cell* is an arm in a shape, at a value of each axis, its seeds taken together; a *run* is
one training of it: one seed, a folder, a row of results.csv.
"""
