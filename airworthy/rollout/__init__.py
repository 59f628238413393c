"""The rollout room: moves traffic to a new model step by step, judges the evidence, rolls back or proves it."""
