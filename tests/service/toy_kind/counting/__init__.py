"""A job kind that another package brings: it counts the pairs of a dataset."""
