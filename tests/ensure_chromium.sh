#!/bin/sh
# Make sure that there is a Chromium for the browser tests. Where none can be had the tests that
# need one are skipped; under CI=true that is an error, because nobody would notice the skip.
set -eu

for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null 2>&1; then
        exit 0
    fi
done

as_root=
if command -v apt-get >/dev/null 2>&1; then
    if [ "$(id -u)" -eq 0 ]; then
        as_root=env
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        as_root="sudo -n env"
    fi
fi

if [ -n "$as_root" ]; then
    echo "Installing Chromium for the browser tests"
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    if { $as_root apt-get update &&
        $as_root DEBIAN_FRONTEND=noninteractive \
            apt-get install -y --no-install-recommends chromium; } >"$log" 2>&1; then
        exit 0
    fi
    tail -n 5 "$log" >&2
fi

if [ "${CI:-}" = true ]; then
    echo "error: no Chromium, and CI=true: the browser tests must run" >&2
    exit 1
fi
echo "No Chromium: the browser tests will be skipped"
