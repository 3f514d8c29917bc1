"""A whole federation in one process: synthetic retailers, comparisons of methods."""
