"""Policies on robots."""
