"""The command line: demo, info, import, search, warm, compact, verify, export, eval.

`app` the commands; `connection` options that they share; `importing` readers of files; `output` tables and
JSON; `demo*` the main job on real text. Exit codes: 0 done, 1 an error that vstore names (one line on
standard error), 2 a command line that cannot be, 130 interrupted.
"""

from vstore.cli.app import main

__all__ = ["main"]
