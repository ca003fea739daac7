"""The errors of `envs`; all have one base class."""


class EnvsError(Exception):
    """Base class of every error that `envs` raises on purpose."""


class UnknownEnvironmentError(EnvsError):
    """No environment has this name."""


class TaskError(EnvsError):
    """A task, a range or a split is not usable."""


class ContractError(EnvsError):
    """The code of an environment breaks the contract of `envs.core.environment`, or of Gymnasium."""


class ModelError(EnvsError):
    """A model does not compile, or a field of it is wrong."""


class PackageError(EnvsError):
    """A package that an environment needs is not installed, or is of another version."""
