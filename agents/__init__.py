"""Policies for meta-reinforcement learning: Transformer, MLP and Stable-Baselines3 baselines."""
