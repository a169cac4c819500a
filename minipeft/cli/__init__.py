"""The command line: ``minipeft bench | compare | fetch | generate | info | lab | train``, one file a command."""

from minipeft.cli.arguments import INTERRUPTED, USER_MISTAKE, Parser, UserError, default_jobs, positive
from minipeft.cli.run import build_parser, main

__all__ = ["INTERRUPTED", "USER_MISTAKE", "Parser", "UserError", "build_parser", "default_jobs", "main", "positive"]
