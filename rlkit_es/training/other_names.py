"""What settings are called in other libraries."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from rlkit_es.errors import suggestion

# Of CleanRL, Stable-Baselines3, Tianshou and rsl_rl.
_ELSEWHERE: Mapping[str, str] = {
    "env": "env_id env_name task",
    "total_steps": "total_timesteps n_timesteps max_iterations",
    "num_envs": "n_envs num_workers training_num num_training_envs",
    "rollout_steps": "n_steps num_steps num_steps_per_env horizon",
    "minibatch_size": "batch_size num_minibatches n_minibatches num_mini_batches",
    "epochs, and critic_epochs for the critic": "n_epochs num_epochs update_epochs num_learning_epochs",
    "learning_rate": "lr policy_lr actor_lr",
    "critic_learning_rate": "critic_lr value_lr vf_lr",
    "learning_rate_schedule": "anneal_lr lr_decay lr_schedule schedule",
    "clip_range": "clip clip_coef clip_param clip_ratio eps_clip",
    "max_kl, with stop mean_kl or learning_rate_schedule adaptive_kl": "target_kl desired_kl",
    "entropy_coefficient": "ent_coef entropy_coef",
    "value_coefficient": "vf_coef value_coef value_loss_coef",
    "gae_lambda": "gae lam",
    "gamma": "discount discount_factor",
    "horizon_growth, which is (1 - gamma) / (1 - gamma at the end)": "gamma_end final_gamma gamma_schedule",
    "advantage_normalization": "norm_adv normalize_advantage",
    "recompute_advantages": "recompute_advantage recompute_adv",
    "hidden_sizes, and critic_hidden_sizes for the critic": "net_arch",
    "hidden_sizes": "hidden_size actor_hidden_dims",
    "critic_hidden_sizes": "critic_hidden_dims",
    "hidden_sizes, activation, log_std_init and network": "policy_kwargs",
    "log_std_init, which is its logarithm": "init_noise_std init_std",
    "normalize_observations": "norm_obs normalize_obs empirical_normalization",
    "normalize_rewards": "norm_reward rew_norm return_scaling reward_normalization",
    "scale_actions": "action_scaling",
    "adam_epsilon": "optimizer_kwargs adam_eps",
    "network, or encoder for pictures": "features_extractor_class features_extractor_kwargs",
    "observation_clip": "clip_obs",
    "reward_clip": "clip_reward",
    "device": "cuda gpu",
    "wandb": "track wandb_project wandb_project_name",
    "run_dir, where events for TensorBoard are written too": "tensorboard_log logdir log_dir",
    "eval_every": "eval_freq",
    "eval_episodes": "n_eval_episodes",
    "checkpoint_every": "save_freq save_interval",
}
# What has no counterpart, and why.
ABSENT: Mapping[str, str] = {
    **dict.fromkeys(
        ("clip_range_vf", "clip_vloss", "value_clip", "use_clipped_value_loss"),
        "the value loss is never clipped here",
    ),
    **dict.fromkeys(("use_sde", "sde_sample_freq"), "action noise does not depend on the state here"),
    "dual_clip": "no surrogate here clips twice; --surrogate says which there are",
    **dict.fromkeys(("rnd_cfg", "symmetry_cfg"), "rewards and losses here are those of the recipe alone"),
    "policy": "hidden_sizes, activation and network say what the policy is",
    "verbose": "learn(progress=True) shows how training goes, and the command line always does",
}
OTHER_NAMES: Mapping[str, str] = {name: here for here, names in _ELSEWHERE.items() for name in names.split()}


def hint(name: str, known: Collection[str], written: str | None = None) -> str:
    """What ``name`` is here, or the closest of what is ``known`` to how it was ``written``."""
    if name in ABSENT:
        return ABSENT[name]
    return f"here it is {OTHER_NAMES[name]}" if name in OTHER_NAMES else suggestion(written or name, known)
