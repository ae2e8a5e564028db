"""What the commands import, for the server from which ``tests.killing`` forks them."""

import trainer.__main__
import trainer.train  # noqa: F401
