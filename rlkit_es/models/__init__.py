"""Networks, distributions and the actor-critic that holds them with its normalisers."""
