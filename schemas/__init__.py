"""What engine and trainer share: tables, manifests, recipes, the store, the forward pass."""
