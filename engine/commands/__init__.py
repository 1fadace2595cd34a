"""The commands of `engine`, one file each; only they write to the screen.

A module here has a click command named `command`, is listed in engine/cli.py, and imports what is slow inside
it.
"""
