"""Scripted controllers that know the hidden task: they prove that it can be solved, and bound what can be learned."""
