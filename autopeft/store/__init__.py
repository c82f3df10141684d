"""The run directory and the files in it: strict YAML, atomic writes, lock, study, recovery.

Inside the folder each file imports only from those before it: files → yaml → plan → run_dir.
"""

from __future__ import annotations

from autopeft.store.files import sha256_of, write_text
from autopeft.store.plan import read_plan, write_plan
from autopeft.store.run_dir import RunDir, measurement_key
from autopeft.store.yaml import faults_of, load_value, parse_yaml, read_yaml, validate, write_yaml_text

__all__ = [
    "RunDir",
    "faults_of",
    "load_value",
    "measurement_key",
    "parse_yaml",
    "read_plan",
    "read_yaml",
    "sha256_of",
    "validate",
    "write_plan",
    "write_text",
    "write_yaml_text",
]
