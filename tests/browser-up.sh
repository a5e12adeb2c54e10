#!/usr/bin/env bash
# Installs a Chromium for the tests of the page if there is none, and prints its path. For root on Debian.
set -euo pipefail
die() { echo "browser-up: $*" >&2; exit 1; }
there() { command -v chromium || command -v chromium-browser || command -v google-chrome; }

there && exit
[ "$(id -u)" = 0 ] || die "must run as root"
command -v apt-get >/dev/null || die "no Chromium, and no apt-get to install one"
log=$(mktemp)
{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium
} >"$log" 2>&1 || die "apt-get failed: $(tail -n 3 "$log")"
there || die "apt-get has installed no Chromium"
