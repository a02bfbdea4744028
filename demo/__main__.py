"""`python -m demo`: see `demo/serve.py`."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback, also while it imports

from demo.serve import main  # noqa: E402

main()
