"""The commands of `trainer`, one file each.

A module here has a click command named `command`, is listed in trainer/cli.py, and imports what is slow
inside it.
"""
