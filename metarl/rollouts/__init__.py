"""Episodes: how they are collected, and what they hold."""
