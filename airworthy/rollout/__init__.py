"""The rollout room: moves traffic to a new model step by step, judges the evidence, proves it or rolls
back."""

from airworthy.rollout.release import RolloutOutcome, roll_out
from airworthy.rollout.rest import SettleResult, deploy, finish, settle, withdraw

__all__ = [
    "RolloutOutcome",
    "SettleResult",
    "deploy",
    "finish",
    "roll_out",
    "settle",
    "withdraw",
]
