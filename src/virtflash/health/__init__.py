"""Sensors, policy, gate: what the state of the platform lets virtual machines do to its flash."""
