"""Who goes first: policies propose, the core admits."""
