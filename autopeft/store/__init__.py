"""The run directory and its files: settings, strict YAML, atomic writes, lock, study, recovery.

Inside the folder each file imports only from those before it:
files, study_file → yaml → settings, plan → run_dir.
"""

from __future__ import annotations

from autopeft.store.files import (
    cannot_write,
    claimed_folder,
    fresh_folder,
    locked_folder,
    read_object,
    read_record,
    refuse_files,
    replaced_file,
    replaced_folder,
    sync_files,
    write_record,
    write_text,
)
from autopeft.store.plan import write_plan
from autopeft.store.run_dir import STATE, TRAINING, RunDir, is_run, read_plan
from autopeft.store.settings import (
    by_dotted_name,
    is_path_of_space,
    parse_bytes,
    parse_duration,
    resolve_settings,
    whole_path,
)
from autopeft.store.yaml import faults_of, parse_yaml, read_yaml, validate, write_yaml_text
