"""The errors of `agents`; all have one base class."""


class AgentsError(Exception):
    """Base class of every error that `agents` raises on purpose."""


class PolicyError(AgentsError):
    """A policy cannot be built or used this way."""
