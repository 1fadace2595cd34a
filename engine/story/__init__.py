"""One prompt with all that a run made of it: gathered (gather.py) and written out to be read (written.py)."""
