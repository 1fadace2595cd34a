"""What a run would take, known before it is started: `engine plan`.

A plan is a rehearsal: some of the input goes through the recipe's own stages, in memory, with a stand-in for
each model, and what comes of it is scaled to the whole input.

    planner.py     the plan of a run, from the next ones
    blocks.py      rows of a text file by the block of bytes that they begin in
    parts.py       the parts of an input that can be read by themselves, and how many rows each stands for
    sampling.py    the rows that are looked at, drawn over the whole input
    repeats.py     how many rows say the same, by a sample
    stand_in.py    a model that is not loaded: it answers something, and its calls are counted
    casts.py       who plays the models: stand-ins, or the models themselves
    rehearsal.py   the rows through the stages
    elsewhere.py   what a recipe leaves to the machine, for a device that is not here
    probing.py     the same with the real models, for half a minute
    whole.py       from the rehearsal to the whole run
    lengths.py     the pairs that each max_length would cut
    devices.py     what a device and a model's sizes say about time and memory
    timing.py      the time of each stage, of the run, and of what a kill costs
    report.py      the plan in words and tables
"""
