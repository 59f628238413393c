"""The numbers under the gate: metrics, intervals, the bootstrap. Plain NumPy; nothing here knows of a policy."""
