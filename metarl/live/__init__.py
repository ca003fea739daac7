"""A policy that is watched while it acts: the session, and its page in a browser."""
