"""The commands: each module adds some to the parser, and says what runs them.

A command imports what it needs when it runs, so that help and errors come at once.
"""

from collections.abc import Callable

from jsonargparse import Namespace

Command = Callable[[Namespace], int]
"""Runs a command with its options, and returns its exit code."""
