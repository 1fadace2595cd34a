"""A tiny world with a known truth, and a tiny model for it: what the demo runs on where no data and no model are given."""
