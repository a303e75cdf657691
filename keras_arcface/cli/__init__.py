"""The command `keras-arcface`. Each of its sub-commands is one file."""
