import numpy as np
import pytest
import torch
from policy_examples import OBSERVATION_SIZE, observations

from rlkit_es.models.normalizers import ObservationNormalizer, RewardScaler

ALL_VALID = torch.ones(500, dtype=torch.bool)


@pytest.mark.parametrize("clip", [1.0, 10.0])
def test_observations_get_mean_zero_and_deviation_one_within_the_clip(clip: float) -> None:
    seen, x = observations(500, seed=1), observations(50, seed=2)
    normalizer = ObservationNormalizer(OBSERVATION_SIZE, clip)
    normalizer.merge(seen[:200], ALL_VALID[:200])
    normalizer.merge(seen[200:], ALL_VALID[200:])
    expected = ((x - seen.mean(0)) / seen.std(0, correction=0)).clamp(-clip, clip)
    torch.testing.assert_close(normalizer(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(normalizer.frozen()(x), normalizer(x), rtol=0, atol=0)
    torch.testing.assert_close(normalizer(x.view(5, 10, -1)).flatten(0, 1), normalizer(x))


def test_normalizing_leaves_its_input_and_the_statistics_alone() -> None:
    normalizer, x = ObservationNormalizer(OBSERVATION_SIZE, 10.0), observations(50)
    normalizer.merge(observations(500, seed=1), ALL_VALID)
    before, copy = {k: v.clone() for k, v in normalizer.state_dict().items()}, x.clone()
    normalizer(x)
    assert torch.equal(x, copy)
    assert all(torch.equal(before[k], v) for k, v in normalizer.state_dict().items())


def test_before_anything_is_counted_it_only_clips() -> None:
    x = observations(50)
    assert torch.equal(ObservationNormalizer(OBSERVATION_SIZE, 1.5)(x), x.clamp(-1.5, 1.5))


def test_an_observation_that_never_varies_stays_finite() -> None:
    normalizer, x = ObservationNormalizer(2, 10.0), torch.full((500, 2), 3.7)
    normalizer.merge(x, ALL_VALID)
    assert normalizer(x).abs().max() < 0.1
    assert normalizer(x + 1).isfinite().all()


def test_a_far_offset_does_not_disturb_the_first_statistics() -> None:
    normalizer, x = ObservationNormalizer(OBSERVATION_SIZE, 10.0), observations(61) + 1e4
    normalizer.merge(x, ALL_VALID[:61])
    deviation = normalizer(x).numpy().std(0)
    np.testing.assert_allclose(deviation, 1, rtol=0.01)


def test_the_state_dict_holds_everything() -> None:
    normalizer, x = ObservationNormalizer(OBSERVATION_SIZE, 10.0), observations(50)
    normalizer.merge(observations(500, seed=1), ALL_VALID)
    copy = ObservationNormalizer(OBSERVATION_SIZE, 10.0)
    copy.load_state_dict(normalizer.state_dict())
    assert torch.equal(copy(x), normalizer(x))


def test_rewards_are_divided_by_the_deviation_of_the_running_return() -> None:
    rng = np.random.default_rng(0)
    scaler = RewardScaler(num_envs=3, gamma=0.9, clip=2.0)
    running, seen = np.zeros(3), []
    for _ in range(4):  # rollouts: statistics and running returns go on
        reward = rng.normal(0.3, 5.0, size=(20, 3)).astype(np.float32)
        done = rng.random((20, 3)) < 0.1
        valid = np.ones((20, 3), dtype=bool)
        given = torch.from_numpy(reward.copy())
        scaled = scaler(given, torch.from_numpy(done), torch.from_numpy(valid))
        for t in range(20):
            running = 0.9 * running + reward[t]
            seen += running.tolist()
            running = np.where(done[t], 0, running)
        expected = np.clip(reward / np.std(seen), -2.0, 2.0)
        np.testing.assert_allclose(scaled, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(given, torch.from_numpy(reward))  # what is reported stays raw


def test_reward_scaling_does_not_shift() -> None:
    scaler = RewardScaler(num_envs=2, gamma=0.9, clip=10.0)
    reward = torch.randn(30, 2, generator=torch.Generator().manual_seed(0)) + 4
    scaled = scaler(reward, torch.zeros(30, 2, dtype=torch.bool), torch.ones(30, 2, dtype=torch.bool))
    ratio = scaled / reward
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio))


def test_what_never_varied_is_ignored_whatever_it_is_elsewhere() -> None:
    normalizer = ObservationNormalizer(4, clip=10.0)
    varying = torch.randn(500, generator=torch.Generator().manual_seed(0))
    for part in varying.split(100):
        constants = torch.tensor([0.0, 8.9, -1e6]).expand(len(part), 3)
        seen = torch.cat([part[:, None], constants], dim=1)
        normalizer.merge(seen, torch.ones(len(part), dtype=torch.bool))
    elsewhere = torch.tensor([[0.5, 3.0, -7.0, 1e6], [0.5, 0.0, 8.9, -1e6]])
    for normalize in (normalizer, normalizer.frozen()):
        first, second = normalize(elsewhere)
        assert torch.equal(first, second)
        assert first[0] != 0
        assert first[1:].tolist() == [0.0, 0.0, 0.0]


def test_what_varies_a_little_is_not_ignored() -> None:
    normalizer = ObservationNormalizer(2, clip=10.0)
    noise = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    normalizer.merge(1e-4 * noise + torch.tensor([0.0, 1.0]), torch.ones(1000, dtype=torch.bool))
    assert (normalizer(1e-4 * noise + torch.tensor([0.0, 1.0])).std(dim=0) > 0.5).all()
