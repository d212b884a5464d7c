"""The trade of clip length against batch size, for each norm: cells are run, compared and reported."""
