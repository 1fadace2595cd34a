"""Training runs as people look at them: read from their folders (read.py), named by what tells them apart
(labels.py), smoothed and put together by seeds (curves.py), and drawn (panels.py, picture.py).

`trainer compare` and `engine report` both show runs by this."""
