#!/usr/bin/env bash
# The database toolkit: a door to scripts/db.ts with a Node that is new enough. Try: scripts/db.sh --help
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
[ -d "$root/node_modules/commander" ] || make -C "$root" --no-print-directory install >&2
exec "$root/scripts/with-node" node "$root/scripts/db.ts" "$@"
