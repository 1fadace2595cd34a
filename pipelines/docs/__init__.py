"""The pages: Markdown files that `engine docs` shows.

Parts of them are written from the code (written.py).
"""
