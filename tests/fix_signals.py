"""Signals as they are in a terminal, wherever the suite runs."""

import signal

# A shell's background job ignores SIGINT, and so would every process that a test starts there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
