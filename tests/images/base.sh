#!/usr/bin/env bash
# base.sh FILE: a stand-in for python:3.11-slim as a tar file, made of Debian 12's packages and its Python 3.11.
# Like the original it has pip only as what `venv` installs from, no documentation, and no bytecode.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,tzdata bookworm "$folder" >&2
ln -s python3 "$folder/usr/bin/python"
rm -rf "$folder"/var/{cache/apt,lib/apt/lists,log}/* "$folder"/usr/share/{doc,info,locale,man}/*
find "$folder" -name __pycache__ -prune -exec rm -r {} +
tar --create --file "$1.part" --directory "$folder" --numeric-owner --exclude './dev/*' .
mv "$1.part" "$1"
