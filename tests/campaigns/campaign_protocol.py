"""The large scenarios of the exhaustive protocol model, which need minutes and memory."""

import sys

from tests.protocol.deeper import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
