"""The public functions, named after the commands: a command parses its options, calls one, and shows its result.

Each returns a frozen result whose `to_json()` is the document that the command prints with `--json`. All of them are
names of the package itself: `import mltrain as mt; mt.train(...)`.
"""
