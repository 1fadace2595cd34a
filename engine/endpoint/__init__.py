"""A model behind an OpenAI-compatible server, in the place of one that runs here: for judge and rewriter.

spec.py      which server, and what rows that come from it depend on
client.py    requests; what is tried again, what refuses a row, what stops the run
disguise.py  failures that come with status 200
dialect.py   which keys a server takes
jobs.py      a shard's questions side by side
breaker.py   when refusals stop the run
replies.py   a server's reply, checked
abilities.py what a server can do, found out once
reading.py   where in a reply the answer stands, and what the marks have there
asker.py     questions answered with one word, as engine/questions.py does it with a model here
rewriter.py  whole responses
"""
