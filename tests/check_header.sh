#!/usr/bin/env bash
# The header as a text: its map lists its sections, in order; nothing names a machine.
cd "$(dirname "$0")/.." || exit 1
map=$(sed -n '/^   THE MAP/,/^   CONFIGURATION/p' dltrain.h | grep -oE '^       >>[a-z ]+[a-z]' | sed 's/^ *>>//; s/ *$//; s/  .*//')
marks=$(grep -oE '^/\* ==== >>[a-z ]+ ====$' dltrain.h | sed 's/.*>>//; s/ ====//')
if [ "$map" = "$marks" ]; then echo "ok header: the map lists the sections"; else echo "not ok header: map and sections differ: $(diff <(echo "$map") <(echo "$marks") | tr '\n' ' ')"; fi
bad=$(grep -cE '^/\* ==== >>' dltrain.h)
may=$(grep -c '^   may use: ' dltrain.h)
if [ "$bad" = "$may" ]; then echo "ok header: every section says what it may use"; else echo "not ok header: $bad sections, $may lines 'may use'"; fi
if [ "$(wc -l < Makefile)" -lt 150 ]; then echo "ok header: Makefile under 150 lines"; else echo "not ok header: Makefile of $(wc -l < Makefile) lines"; fi
