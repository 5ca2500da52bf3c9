"""A tool in any language: arguments as JSON on the standard input, the result on the standard output."""

import json
import sys

print("\n".join(f"* {line}" for line in json.load(sys.stdin)["lines"]))
