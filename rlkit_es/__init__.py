"""On-policy reinforcement learning: how far may a policy move on one batch, and which samples move it?"""

from rlkit_es._version import __version__
from rlkit_es.agent import Algorithm
from rlkit_es.algorithms import (
    ESPO,
    PPO,
    R2VPO,
    SDESPO,
    SDPPO,
    SDTRPO,
    SPO,
    TRPO,
    AdaptivePPO,
    evaluate,
    load,
    resume,
)
from rlkit_es.errors import CheckpointError, NonFiniteError, UserError
from rlkit_es.learners.registration import register
from rlkit_es.training.callbacks import Callback, Logger
from rlkit_es.training.config import Config
from rlkit_es.training.evaluate import Evaluation

__all__ = [
    "ESPO",
    "PPO",
    "R2VPO",
    "SDESPO",
    "SDPPO",
    "SDTRPO",
    "SPO",
    "TRPO",
    "AdaptivePPO",
    "Algorithm",
    "Callback",
    "CheckpointError",
    "Config",
    "Evaluation",
    "Logger",
    "NonFiniteError",
    "UserError",
    "__version__",
    "evaluate",
    "load",
    "register",
    "resume",
]
