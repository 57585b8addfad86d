import pytest
import torch
from stats_examples import random_mask

from rlkit_es.core.minibatches import shuffled_minibatches


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SIZES = [(1, 1), (1, 64), (64, 64), (65, 64), (200, 7), (201, 1), (130, 64), (500, 63)]


@pytest.mark.parametrize(("size", "minibatch"), SIZES)
@pytest.mark.parametrize("keep", [0.3, 0.9, 1.0])
def test_every_valid_sample_once_in_even_minibatches_of_one_width(
    size: int, minibatch: int, keep: float
) -> None:
    valid = random_mask(size, size, keep)
    valid[-1] = True
    index, real, minibatches = shuffled_minibatches(valid, minibatch, generator())
    count = int(valid.sum())
    assert minibatches == -(-count // minibatch)
    # The shape is that of a batch without invalid samples: it is the same for every rollout.
    assert index.shape == real.shape == (-(-size // minibatch), minibatch)
    assert index.dtype == torch.int64
    assert real.dtype == torch.bool
    assert index[real].sort().values.tolist() == valid.nonzero().flatten().tolist()
    assert not real[minibatches:].any()
    sizes = real[:minibatches].sum(1)
    assert sizes.max() - sizes.min() <= 1
    assert sizes.min() >= 1
    assert ((index >= 0) & (index < size)).all()  # padding can be gathered too


def test_each_call_draws_a_fresh_order() -> None:
    valid, g = random_mask(0, 100), generator()
    orders = [shuffled_minibatches(valid, 16, g)[0] for _ in range(5)]
    assert len({tuple(order.flatten().tolist()) for order in orders}) == 5


def test_the_seed_fixes_the_order() -> None:
    valid = random_mask(0, 100)
    once, again = (shuffled_minibatches(valid, 16, generator(3)) for _ in range(2))
    assert torch.equal(once[0], again[0])
    assert torch.equal(once[1], again[1])
    assert not torch.equal(
        shuffled_minibatches(valid, 16, generator(3))[0], shuffled_minibatches(valid, 16, generator(4))[0]
    )


def test_every_sample_reaches_every_minibatch_over_many_epochs() -> None:
    valid, g = torch.ones(12, dtype=torch.bool), generator()
    seen = torch.zeros(4, 12, dtype=torch.bool)
    for _ in range(200):
        index, real, _ = shuffled_minibatches(valid, 3, g)
        assert real.all()
        seen.scatter_(1, index, True)
    assert seen.all()


def test_a_minibatch_larger_than_the_batch_is_padded() -> None:
    valid = random_mask(1, 20)
    index, real, minibatches = shuffled_minibatches(valid, 64, generator())
    assert index.shape == (1, 64)
    assert minibatches == 1
    assert int(real.sum()) == int(valid.sum())


def test_no_valid_sample_gives_no_minibatch() -> None:
    _, real, minibatches = shuffled_minibatches(torch.zeros(20, dtype=torch.bool), 8, generator())
    assert minibatches == 0
    assert not real.any()
