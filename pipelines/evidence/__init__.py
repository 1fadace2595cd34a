"""Do the papers' claims hold? Each is tried where the true reward of every response is known.

    python -m pipelines.evidence [CLAIM…] -o runs/evidence

- For each seed the engine makes one cache: problems of the market, samples, rewrites, log-probs. All pairs
  and all trainings are from it.
- Preferences are sampled from the true reward, by a Bradley-Terry model.
- Learning rate and β of each method are chosen on problems of their own, by the same search for all.
- Each policy then answers test problems that nothing was chosen by, and what the answers are worth is known.
- A claim is a paired comparison, with an interval by bootstrap over seeds and problems, and a verdict.
"""
