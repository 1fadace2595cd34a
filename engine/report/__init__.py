"""One page of all that a run holds (`engine report`): a file that needs nothing else.

made.py       what was made from what: stages, rows, rejects, time
figures.py    charts and tables of the data: lengths, scores, margins, judges, rewrites
sample.py     the pairs that the page holds, and how many of all these are
pairs.py      a pair as the page has it: texts, edits, tokens with their log-probs
trainings.py  curves and table of training runs
page.py       all of it as HTML; web/ has the template, the style and the script
"""
