"""Pure tensor functions: the equations of the library, one file an idea.

They take tensors and return tensors, per sample; ``losses.masked_mean`` does every mean of a loss.
"""
