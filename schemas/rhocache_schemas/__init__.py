"""What every room agrees on: documents, the cache's format, and how a dataset is read."""
