"""A recipe for what a user has (`engine init`): the data and the model are looked at, the text is composed.

data_look.py    what the data brings
model_look.py   what the model is
memory.py       how it can be trained on this machine
methods.py      which papers there are, and which recipe that ships has each one's values
judges.py       who says which response is better
toml_text.py    a recipe's text in sections, and a value in it with the reason above
settings.py     what the user sets over all that
listing.py      the recipes that ship (--list)
train_text.py   [train] and its tables
compose.py      the whole text, from sections of the recipes that ship
"""
