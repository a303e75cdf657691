"""Asks a server whether two aligned faces show the same person, as `keras-arcface ask`.

python examples/serve_client.py grpc://localhost:8500 first.jpg second.jpg --far 1e-4
python examples/serve_client.py --help
"""

import sys

from keras_arcface.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["ask", *sys.argv[1:]]))
