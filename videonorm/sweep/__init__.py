"""The trade of clip length T against batch size B: trainings are run, compared and reported.

An *arm* is what `norms:` names, a *shape* is T x stride, B. A *cell* is an arm in a shape, its seeds taken
together; a *run* is one training of it: one seed, a folder, a row of results.csv.
"""
