"""Environments: the `VectorEnv` contract, one file a backend, and the registry that chooses."""
