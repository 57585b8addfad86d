"""On-policy reinforcement learning: how far may a policy move on one batch, and which samples move it?"""

from rlkit_es._version import __version__
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
    Algorithm,
    evaluate,
)
from rlkit_es.errors import NonFiniteError, UserError
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
    "Config",
    "Evaluation",
    "NonFiniteError",
    "UserError",
    "__version__",
    "evaluate",
]
