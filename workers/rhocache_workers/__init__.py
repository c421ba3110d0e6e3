"""Making caches: a frozen reference CLIP, run over a dataset by Ray workers."""
