"""The command `rsic`: one file for each subcommand."""

from abc import ABC, abstractmethod


class BaseRSICCommand(ABC):
    """A subcommand, as diffusers' `BaseDiffusersCLICommand` is one.

    Args:
        args (`argparse.Namespace`): What was typed.
    """

    def __init__(self, args):
        self.args = args

    @staticmethod
    @abstractmethod
    def register_subcommand(subparsers) -> None:
        """Add the subcommand's parser, whose `command_class` is the class."""

    @abstractmethod
    def run(self) -> int | None:
        """Do the work and return the exit code; None is 0."""
