"""What lies on disk and in a batch: tables, manifests, recipes, and the packed row of tokens. Engine and trainer meet only here."""
