"""Scripted controllers that know the hidden task: they prove that tasks can be solved, and bound what can be learned."""
