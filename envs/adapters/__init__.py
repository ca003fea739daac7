"""Environments as others see them, and those of others as ours."""
