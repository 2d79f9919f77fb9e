#!/usr/bin/env bash
# Each function runs with its own extra and nothing else: what its image will hold. Needs the package index.
set -euo pipefail
cd "$(dirname "$0")/../.."
for name in ingest index query export; do
    folder=build/extras/$name
    .venv/bin/uv venv --quiet --clear --python .venv/bin/python "$folder"
    .venv/bin/uv pip install --quiet --python "$folder" --constraint requirements.lock \
        --requirements pyproject.toml --extra "$name"
    "$folder/bin/python" -W error::ImportWarning -c "
import asyncio, httptools, uvloop
from functions.common.host import server
from functions.$name.function import new
function = new({})
server(function)
"
    count=$(.venv/bin/uv pip list --quiet --python "$folder" | tail -n +3 | wc -l)
    echo "$name: starts with $count packages, $(du -sm "$folder" | cut -f1) MB"
done
