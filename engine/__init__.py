"""Raw rows to pairs: the cache that the trainer spends."""
