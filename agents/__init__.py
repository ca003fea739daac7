"""Policies for meta-reinforcement learning: a Transformer and an MLP."""
