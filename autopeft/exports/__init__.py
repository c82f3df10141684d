"""Export formats, one file each; `recipes` has those for other trainers, `_shared` what several use."""

from __future__ import annotations

from autopeft.exports._shared.adapter import (
    load_in_peft,
    missing_weights,
    n_trained_labels,
    read_all_weights,
    write_adapter,
)
from autopeft.exports._shared.hub import name_base, write_loading_files
from autopeft.exports._shared.servers import SERVERS, server_faults, servers_of
from autopeft.model.attaching import read_weights
