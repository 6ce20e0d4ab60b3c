"""Errors that end a command with one message: each class carries its exit status."""


class HyperdriveError(Exception):
    """Base of every error that a user is meant to read. ``status`` is the exit status of the command."""

    status = 3


class UserError(HyperdriveError):
    """The user's input is at fault: the message names what, where, the limit and the remedy."""

    status = 2


class ConfigError(UserError):
    """A chip or mesh description is impossible or unknown."""


class ModelError(UserError):
    """A network cannot be read, or cannot be run on the chip that was asked for."""


class ToolError(HyperdriveError):
    """An external tool (Yosys, a C++ compiler, a simulator) is missing or failed."""


class ChipError(HyperdriveError):
    """The chip raised its error status, or stopped making progress."""
