"""Pairs to a policy, without a reference model: its log-probs come from disk."""
