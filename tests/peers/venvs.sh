#!/usr/bin/env bash
# Makes a Python venv below the folder given for each file in venvs/: stand-ins of warehouses, whose requirements exclude
# each other. A file's first line says which Python it needs; without one, its tests say so and go on.
set -euo pipefail
dest=$1
here=$(cd "$(dirname "$0")" && pwd)
python_of() {
  for candidate in "$HOME/.pyenv/versions/$1".*/bin/python "python$1"; do
    if "$candidate" -c 'import venv' 2> /dev/null; then
      echo "$candidate"
      return
    fi
  done
}
mkdir -p "$dest"
for file in "$here"/venvs/*.txt; do
  [ -e "$file" ] || continue
  name=$(basename "$file" .txt)
  wanted=$(sed -n '1s/^# python: //p' "$file")
  if cmp -s "$file" "$dest/$name/made-from.txt"; then
    continue
  fi
  python=$(python_of "$wanted")
  if [ -z "$python" ]; then
    echo "no Python $wanted here: tests against $name are left out" >&2
    continue
  fi
  rm -rf "${dest:?}/$name"
  "$python" -m venv "$dest/$name"
  "$dest/$name/bin/pip" install --quiet --disable-pip-version-check -r "$file"
  # what a stand-in needs beyond packages
  if [ -x "$here/venvs/$name.sh" ]; then
    "$here/venvs/$name.sh" "$dest/$name"
  fi
  cp "$file" "$dest/$name/made-from.txt"
done
touch "$dest/ready"
