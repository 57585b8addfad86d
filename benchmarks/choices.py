"""The figures in docs/decisions.md: each choice beside what it was chosen against, in turns.

python benchmarks/choices.py
"""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from command_line import Parser
from machine import REPOSITORY, save
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from workers import Turn, Worker

from rlkit_es.core.trust_region import gauss_newton_product
from rlkit_es.envs.envpool_backend import EnvPoolVectorEnv
from rlkit_es.envs.vector_env import Step, to_float32
from rlkit_es.learners.flat import FlatModule
from rlkit_es.learners.loops import CompiledLoop, PythonLoop
from rlkit_es.learners.minibatch_step import MinibatchStep
from rlkit_es.models.distributions import DiagonalGaussian
from rlkit_es.training.batches import prepare_batch
from rlkit_es.training.config import Config
from rlkit_es.training.policy import make_policy
from rlkit_es.training.rollout import RolloutCollector
from rlkit_es.training.trainer import Trainer
from rlkit_es.types import ActionSpec, ObservationSpec, Spaces

RESULTS = REPOSITORY / "benchmarks" / "results" / "choices.json"
ENV = "HalfCheetah-v4"
SIZES = ((8, 256), (64, 32))  # environments, steps of a rollout
ROUNDS = 11


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure everything, print it, and save it."""
    options = Parser(description=__doc__).parse_measurement(arguments, RESULTS)
    torch.set_num_threads(1)
    results = {
        "rollout time, EnvPool's public send and recv / the pool's own": envpool_layer(),
        "training time, one group of environments / two": groups(),
        "rollout time of one environment, EnvPool / Gymnasium in this process": single_environment(),
        "minibatch time, torch.compile of the step / the native loop": compiled_loop(),
        "time of a Fisher-vector product, alternative / two products through one graph": fisher_product(),
        "largest error of the ratio at 17 action dimensions": ratio_error(),
    }
    for what, value in results.items():
        print(f"{what}: {value}")
    save(options.output, {"results": results})


class PublicEnvPool(EnvPoolVectorEnv):
    """EnvPool through its Gymnasium layer."""

    def send(self, action: Tensor) -> None:
        """Through the public method."""
        self._pool.send(action.numpy().astype(self._action_dtype))

    def recv(self) -> Step:
        """Through the public method."""
        observation, reward, terminated, truncated, _ = self._pool.recv()
        valid, self._ended = ~self._ended, terminated | truncated
        flags = (torch.from_numpy(flag) for flag in (terminated, truncated, valid))
        return Step(to_float32(observation), to_float32(reward), *flags)


def envpool_layer() -> dict[str, float]:
    """Median ratio of rollout times, for each size."""
    result = {}
    for num_envs, steps in SIZES:
        trainer = _trainer(num_envs, steps)

        def through(kind: type[EnvPoolVectorEnv], trainer: Trainer = trainer) -> float:
            for envs in trainer.envs:
                envs.__class__ = kind
            return _rollout_seconds(trainer)

        times = _in_turns(partial(through, PublicEnvPool), partial(through, EnvPoolVectorEnv))
        result[f"{num_envs} envs"] = _median_ratio(times)
        trainer.close()
    return result


def groups() -> dict[str, float]:
    """Median ratio of the time of training, for each size; a process for each, so that threads are apart."""
    result = {}
    for num_envs, steps in SIZES:
        one, two = (
            Worker(f"{count} groups", partial(_iterations, num_envs=num_envs, steps=steps, env_groups=count))
            for count in (1, 2)
        )
        times = _in_turns(lambda one=one: one.measure()[0], lambda two=two: two.measure()[0])
        result[f"{num_envs} envs"] = _median_ratio(times)
        one.close()
        two.close()
    return result


def single_environment() -> dict[str, float]:
    """Median ratio of rollout times."""
    pool, process = (_trainer(1, 2048, backend=name, env_groups=1) for name in ("envpool", "gymnasium"))
    times = _in_turns(partial(_rollout_seconds, pool), partial(_rollout_seconds, process))
    pool.close()
    process.close()
    return {"ratio": _median_ratio(times)}


def _iterations(turn: Turn, *, num_envs: int, steps: int, env_groups: int) -> None:
    """Seconds of ten iterations a turn."""
    trainer = _trainer(num_envs, steps, env_groups=env_groups)
    trainer.learner.compile()
    turn.repeat(lambda: (_seconds(lambda: trainer.train(10 * num_envs * steps)),))


def compiled_loop() -> dict[str, float]:
    """Median ratio of the times of whole training updates, and microseconds a minibatch of each."""
    compiled_step, native = (_trainer(*SIZES[0], minibatch_size=64) for _ in range(2))
    native.learner.compile()
    step: MinibatchStep = compiled_step.learner._step
    compiled_step.learner._joint_loop = PythonLoop(
        torch.compile(step.joint, fullgraph=True, dynamic=False, options={"cpp_wrapper": True}), watch=True
    )
    assert isinstance(native.learner._joint_loop, CompiledLoop)
    times = _in_turns(partial(_update_seconds, compiled_step), partial(_update_seconds, native))
    minibatches = 320  # 10 epochs of 2048 / 64
    result = {
        "ratio": _median_ratio(times),
        "torch.compile, us": round(1e6 * statistics.median(a for a, _ in times) / minibatches),
        "native loop, us": round(1e6 * statistics.median(b for _, b in times) / minibatches),
    }
    compiled_step.close()
    native.close()
    return result


def fisher_product() -> dict[str, float]:
    """Median ratios of times at a batch of 2048, and microseconds of the product as it is."""
    config = Config.for_algorithm("trpo")
    policy = make_policy(
        config,
        Spaces(ObservationSpec((17,)), ActionSpec(6, low=(-1.0,) * 6, high=(1.0,) * 6, shape=(6,))),
        seed=0,
    )
    actor, distribution = FlatModule(policy.actor), policy.distribution
    parameters, observation = actor.gather().requires_grad_(), torch.randn(2048, 17)
    output = actor(parameters, observation)
    metric = distribution.fisher(output.detach()) / len(observation)
    ours = gauss_newton_product(output, parameters, metric)
    mean_kl = distribution.kl(output.detach(), output).mean()
    (kl_gradient,) = torch.autograd.grad(mean_kl, parameters, create_graph=True)
    v = torch.randn_like(parameters)

    def double_backward() -> Tensor:
        return torch.autograd.grad(kl_gradient.dot(v), parameters, retain_graph=True)[0]

    compiled = _compiled_fisher_product(actor, parameters.detach(), observation, metric, v)
    torch.testing.assert_close(ours(v), double_backward(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours(v), compiled(), rtol=1e-3, atol=1e-3)
    result = {}
    for name, alternative in (("double backward of the KL", double_backward), ("compiled", compiled)):
        times = _in_turns(partial(_fifty, alternative), partial(_fifty, lambda: ours(v)))
        result[name] = _median_ratio(times)
    result["ours, us"] = round(1e6 / 50 * statistics.median(b for _, b in times))
    return result


def _compiled_fisher_product(
    actor: FlatModule, parameters: Tensor, observation: Tensor, metric: Tensor, v: Tensor
) -> Callable[[], Tensor]:
    """One native function; it repeats the forward pass in every product."""

    def product(parameters: Tensor, observation: Tensor, metric: Tensor, v: Tensor) -> Tensor:
        def outputs(parameters: Tensor) -> Tensor:
            return actor(parameters, observation)

        _, pushed_forward = torch.func.jvp(outputs, (parameters,), (v,))
        _, pull_back = torch.func.vjp(outputs, parameters)
        return pull_back(metric * pushed_forward)[0]

    arguments = (parameters, observation, metric, v)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        graph = make_fx(product)(*arguments)
        package = torch._inductor.aoti_compile_and_package(
            torch.export.export(graph, arguments), package_path=f"{folder}/product.pt2"
        )
        native = torch._inductor.aoti_load_package(package)
    return lambda: native(*arguments)


def _fifty(run: Callable[[], object]) -> float:
    return _seconds(lambda: [run() for _ in range(50)])


def ratio_error() -> dict[str, float]:
    """Against float64, for means that differ by a rounding (6e-8)."""
    torch.manual_seed(0)
    gaussian = DiagonalGaussian(17)
    old = torch.cat([torch.randn(2048, 17), torch.full((2048, 17), -0.5)], dim=1)
    new = old.clone()
    new[:, :17] += 6e-8 * torch.randn(2048, 17)
    action = gaussian.sample(old, torch.randn(2048, 17))
    exact = gaussian.log_ratio(new.double(), old.double(), action.double()).exp()
    ours = gaussian.log_ratio(new, old, action).exp()
    usual = (gaussian.log_prob(new, action) - gaussian.log_prob(old, action)).exp()
    return {
        "sum of differences": float((ours - exact).abs().max()),
        "difference of log-probabilities": float((usual - exact).abs().max()),
    }


def _trainer(num_envs: int, steps: int, **settings: Any) -> Trainer:
    return Trainer(
        Config.for_algorithm(
            "ppo",
            env=ENV,
            num_envs=num_envs,
            rollout_steps=steps,
            recompute_advantages=False,
            compile="off",
            **settings,
        )
    )


@functools.cache
def _collector(trainer: Trainer) -> RolloutCollector:
    return trainer.begin_segment()


def _in_turns(first: Callable[[], float], second: Callable[[], float]) -> list[tuple[float, float]]:
    """Seconds of each, ``ROUNDS`` times in turn after two rounds that do not count."""
    return [(first(), second()) for _ in range(ROUNDS + 2)][2:]


def _rollout_seconds(trainer: Trainer) -> float:
    return _seconds(lambda: _collector(trainer).collect(trainer.policy))


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _update_seconds(trainer: Trainer) -> float:
    """Of the update on a fresh rollout, as in training."""
    rollout = _collector(trainer).collect(trainer.policy)
    batch, *_ = prepare_batch(rollout, trainer.policy, trainer.reward_scaler, gamma=0.99, gae_lambda=0.95)
    return _seconds(lambda: trainer.learner.update(batch, 1e-7))


def _median_ratio(times: list[tuple[float, float]]) -> float:
    return round(statistics.median(a / b for a, b in times), 2)


if __name__ == "__main__":
    main()
