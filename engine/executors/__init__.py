"""Where shards run. State is only in the run folder, so an executor that dies loses no more than the shards in its hands."""
